"""A tiny model to judge, and the evaluation of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import save_checkpoint
from permmoe.training.seeds import make_model
from tests.support.tiny_federation import MODEL

MODEL_SEED = 5


def judged_model(seed: int = MODEL_SEED) -> PerMMoE:
    """A model that no hospital trained."""
    return make_model(MODEL, seed)


def packed(model: PerMMoE) -> PackedModel:
    """The model as it travels."""
    return PackedModel.of(ModuleLayout.of(model).flatten_all(model.state_dict()))


def write_model(folder: Path, seed: int = MODEL_SEED, **card: Any) -> Path:
    """The model's folder, with a card as `permmoe train` writes one."""
    save_checkpoint(folder, judged_model(seed).state_dict(), {"model": MODEL.model_dump(mode="json"), **card})
    return folder


def tiny_evaluation(
    *, visits: Literal["test", "all"] = "all", seed: int = MODEL_SEED, name: str = "judging", **federation: Any
) -> RoundPlan:
    """An evaluation of that model."""
    asked = EvaluationConfig(
        visits=visits, model_sha256=packed(judged_model(seed)).digest(), model_name="v0001 of study T"
    )
    settings = {"min_cell_count": 1, "round_deadline_seconds": 600.0, **federation}
    return RoundPlan.model_validate(
        {"name": name, "is_synthetic": True, "model": MODEL, "federation": settings, "evaluation": asked}
    )
