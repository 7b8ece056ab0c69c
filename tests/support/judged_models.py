"""A tiny model to judge, and an ensemble of such models, and the evaluation of either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from permmoe.config import ModelConfig
from permmoe.ensemble import Ensemble, Network
from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import save_checkpoint
from permmoe.training.seeds import make_model
from tests.support.tiny_federation import MODEL

MODEL_SEED = 5
WITH_SPREAD = MODEL.model_copy(update={"spread": "laplace"})


def judged_model(seed: int = MODEL_SEED) -> PerMMoE:
    """A model that no hospital trained."""
    return make_model(MODEL, seed)


def judged_ensemble(seeds: Sequence[int] = (5, 6, 7), config: ModelConfig = MODEL) -> Ensemble:
    """Several of them as one."""
    return Ensemble([make_model(config, seed) for seed in seeds])


def packed(model: Network) -> PackedModel:
    """The model as it travels."""
    return PackedModel.of(ModuleLayout.of(model).flatten_all(model.state_dict()))


def write_network(folder: Path, network: Network, **card: Any) -> Path:
    """A network's folder, with a card as `permmoe train` writes one."""
    members = {"members": len(network.models)} if isinstance(network, Ensemble) else {}
    save_checkpoint(folder, network.state_dict(), {"model": network.config.model_dump(mode="json"), **members, **card})
    return folder


def write_model(folder: Path, seed: int = MODEL_SEED, **card: Any) -> Path:
    """The model's folder, likewise."""
    return write_network(folder, judged_model(seed), **card)


def evaluation_of(
    network: Network, *, visits: Literal["test", "all"] = "all", name: str = "judging", **federation: Any
) -> RoundPlan:
    """An evaluation of a network."""
    members = len(network.models) if isinstance(network, Ensemble) else 1
    asked = EvaluationConfig(
        visits=visits, model_sha256=packed(network).digest(), model_name="v0001 of study T", members=members
    )
    settings = {"min_cell_count": 1, "round_deadline_seconds": 600.0, **federation}
    return RoundPlan.model_validate(
        {"name": name, "is_synthetic": True, "model": network.config, "federation": settings, "evaluation": asked}
    )


def tiny_evaluation(seed: int = MODEL_SEED, **settings: Any) -> RoundPlan:
    """An evaluation of that model; `settings` as of `evaluation_of`."""
    return evaluation_of(judged_model(seed), **settings)
