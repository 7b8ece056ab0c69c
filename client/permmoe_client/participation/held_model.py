"""The newest model that a site was sent, kept between messages so that only what changed has to travel.

It lies in the state that a node keeps between messages, in memory: Flower's in a simulation, that of
permmoe_client.connection.node in a hospital. A site that is restarted has forgotten it, says so, and is sent the whole
model again.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from permmoe.federated.federation_config import Wire
from permmoe.federated.module_records import read_digests, read_modules, write_digests, write_modules
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.records import MalformedRecord, record_of
from permmoe.federated.wire import down_format, packed_size

MODULES, DIGESTS = "held-modules", "held-digests"


def held_model(state: RecordDict, layout: ModuleLayout, wire: Wire) -> PackedModel | None:
    """What is kept; None where nothing is, or nothing of this study's."""
    if MODULES not in state:
        return None
    try:
        digests = read_digests(record_of(state, DIGESTS, ConfigRecord))
        sizes = {name: packed_size(layout.size(name), down_format(name, wire)) for name in digests}
        return PackedModel(read_modules(record_of(state, MODULES, ArrayRecord), sizes), digests)
    except (KeyError, MalformedRecord):
        return None


def hold_model(state: RecordDict, model: PackedModel) -> None:
    """Keep it in place of what was kept before."""
    digests = write_digests(model.digests)
    if DIGESTS in state and dict(state.config_records[DIGESTS]) == dict(digests):
        return
    state[MODULES], state[DIGESTS] = write_modules(model.modules), digests
