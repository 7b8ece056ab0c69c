"""The newest model that a site was sent, kept between messages: only what changed has to travel, and the next model has
to be one that training can have made of it.

It lies in the state that a node keeps between messages, in memory: Flower's in a simulation, that of
permmoe_client.connection.node in a hospital. A site that is restarted has forgotten it, says so, and is sent the whole
model again.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from permmoe.federated.federation_config import Wire
from permmoe.federated.module_records import read_digests, read_modules, write_digests, write_modules
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.records import MalformedRecord, record_of, typed
from permmoe.federated.wire import down_format, packed_size

MODULES, DIGESTS, ORIGIN = "held-modules", "held-digests", "held-origin"


@dataclass(frozen=True)
class HeldModel:
    """A model, the study that it is of, and when in it."""

    model: PackedModel
    study: str
    """Digest of the plan."""
    next_round: int
    """The round that training has reached with it, which begins with it or with one like it."""


def held_model(state: RecordDict, layout: ModuleLayout, wire: Wire) -> HeldModel | None:
    """What is kept; None where nothing is, or nothing of such a model."""
    if MODULES not in state:
        return None
    try:
        digests = read_digests(record_of(state, DIGESTS, ConfigRecord))
        sizes = {name: packed_size(layout.size(name), down_format(name, wire)) for name in digests}
        model = PackedModel(read_modules(record_of(state, MODULES, ArrayRecord), sizes), digests)
        origin = record_of(state, ORIGIN, ConfigRecord)
        return HeldModel(model, typed(origin, "study", str), typed(origin, "next-round", int))
    except (KeyError, MalformedRecord):
        return None


def hold_model(state: RecordDict, held: HeldModel) -> None:
    """Keep it in place of what was kept before."""
    state[ORIGIN] = ConfigRecord({"study": held.study, "next-round": held.next_round})
    digests = write_digests(held.model.digests)
    if DIGESTS in state and dict(state.config_records[DIGESTS]) == dict(digests):
        return
    state[MODULES], state[DIGESTS] = write_modules(held.model.modules), digests
