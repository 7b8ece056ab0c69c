"""The checkpoint from which a study goes on: `last/` in its folder, with weights, server moments and running mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from permmoe.errors import ConfigurationError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.provenance import machine, versions
from permmoe_server.protocol.round_records import FederationState

FOLDER = "last"


def load_state(out: Path, plan: RoundPlan, layout: ModuleLayout) -> FederationState | None:
    """Return the state that a study in this folder has reached; None where it has not begun.

    Raises ConfigurationError where it was begun with another plan; more or fewer rounds are no other plan.
    """
    if not has_checkpoint(out / FOLDER):
        return None
    tensors, card = load_checkpoint(out / FOLDER)
    if _comparable(RoundPlan.model_validate(card["plan"])) != _comparable(plan):
        raise ConfigurationError(f"{out} holds a study with another plan; name a new folder, or delete this one")
    groups = split_groups(tensors, ("weights", "average"))
    weights, average = groups.pop("weights"), groups.pop("average")
    return FederationState(card["round"], layout.flatten_all(weights), _turned(groups), average)


def save_state(out: Path, plan: RoundPlan, layout: ModuleLayout, state: FederationState) -> None:
    """Replace the checkpoint."""
    groups = {"weights": layout.unflatten(state.weights), "average": state.average, **_turned(state.moments)}
    save_checkpoint(out / FOLDER, join_groups(groups), study_card(plan, state))


def study_card(plan: RoundPlan, state: FederationState) -> dict[str, Any]:
    """Return the metadata of a study's checkpoint: where its weights come from."""
    return {
        "model": plan.model.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "round": state.round,
        "versions": versions(),
        "machine": machine(),
    }


def _turned(table: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Swap the two levels of keys: moments by module become modules by moment, and the reverse."""
    turned: dict[str, dict[str, Tensor]] = {}
    for outer, row in table.items():
        for inner, tensor in row.items():
            turned.setdefault(inner, {})[outer] = tensor
    return turned


def _comparable(plan: RoundPlan) -> RoundPlan:
    return plan.model_copy(update={"federation": plan.federation.model_copy(update={"rounds": 1})})
