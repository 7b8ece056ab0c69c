"""The checkpoint from which a study goes on: `last/` in its folder, with weights, server moments and running mean.

Where late updates count it also has who is at work, and the models that they began with: in the same file as the
weights, so that no update is in the one and not in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from permmoe.errors import ConfigurationError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel, module_digests
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.at_work import NOBODY_AT_WORK, StillAtWork
from permmoe_server.protocol.round_records import FederationState

FOLDER = "last"
BEGUN = "begun-"
"""How the names of groups begin that hold the model which sites at work on a round began with."""


def load_state(out: Path, plan: RoundPlan, layout: ModuleLayout, name: str = FOLDER) -> FederationState | None:
    """Return the state that a study in this folder has reached; None where it has not begun. `name`: of the checkpoint.

    Raises ConfigurationError where it was begun with another plan; more or fewer rounds are no other plan.
    """
    if not has_checkpoint(out / name):
        return None
    tensors, card = load_checkpoint(out / name)
    if _comparable(RoundPlan.model_validate(card["plan"])) != _comparable(plan):
        raise ConfigurationError(f"{out} holds a study with another plan; name a new folder, or delete this one")
    groups = split_groups(tensors, ("weights", "average"))
    weights, average = groups.pop("weights"), groups.pop("average")
    at_work = _read_at_work(card.get("at_work"), groups)
    return FederationState(card["round"], layout.flatten_all(weights), _turned(groups), average, at_work=at_work)


def save_state(out: Path, plan: RoundPlan, layout: ModuleLayout, state: FederationState) -> None:
    """Replace the checkpoint."""
    models = {
        f"{BEGUN}{number}": {module: torch.tensor(packed) for module, packed in model.modules.items()}
        for number, model in state.at_work.models.items()
    }
    groups = {"weights": layout.unflatten(state.weights), "average": state.average, **_turned(state.moments), **models}
    at_work = {} if state.at_work == NOBODY_AT_WORK else {"at_work": _written(state.at_work)}
    save_checkpoint(out / FOLDER, join_groups(groups), {**study_card(plan, state), **at_work})


def study_card(plan: RoundPlan, state: FederationState) -> dict[str, Any]:
    """Return the metadata of a study's checkpoint: where its weights come from."""
    return {
        "model": plan.model.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "round": state.round,
        "versions": versions(),
        "machine": machine(),
    }


def _written(at_work: StillAtWork) -> dict[str, Any]:
    """All but the models, for the card. JSON has no numbers as keys."""
    return {
        "sites": [[site, number, at_work.seconds_left[site]] for site, number in at_work.rounds.items()],
        "counted": [[number, sorted(sites)] for number, sites in at_work.counted.items()],
    }


def _read_at_work(written: Mapping[str, Any] | None, groups: dict[str, dict[str, Tensor]]) -> StillAtWork:
    """Who is at work; the models are taken out of the groups."""
    if written is None:
        return NOBODY_AT_WORK
    found = {name: groups.pop(name) for name in list(groups) if name.startswith(BEGUN)}
    packed = {name: {module: tensor.numpy() for module, tensor in modules.items()} for name, modules in found.items()}
    return StillAtWork(
        {site: number for site, number, _ in written["sites"]},
        {site: seconds for site, _, seconds in written["sites"]},
        {int(name.removeprefix(BEGUN)): PackedModel(one, module_digests(one)) for name, one in packed.items()},
        {number: frozenset(sites) for number, sites in written["counted"]},
    )


def _turned(table: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Swap the two levels of keys: moments by module become modules by moment, and the reverse."""
    turned: dict[str, dict[str, Tensor]] = {}
    for outer, row in table.items():
        for inner, tensor in row.items():
            turned.setdefault(inner, {})[outer] = tensor
    return turned


def _comparable(plan: RoundPlan) -> RoundPlan:
    return plan.model_copy(update={"federation": plan.federation.model_copy(update={"rounds": 1})})
