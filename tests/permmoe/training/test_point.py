"""A training that goes on from a point behind any of its steps ends with the bits of one that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from permmoe.config import PrivacyConfig, TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.training.correction import Correction
from permmoe.training.epochs import train_epochs
from permmoe.training.exposure import TrainingRecord
from permmoe.training.point import TrainingPoint
from permmoe.training.private_trainer import train_privately
from permmoe.training.seeds import make_model
from tests.support.small_training import CONFIG, TRAIN, are_identical, weights_of


@dataclass
class EveryPoint:
    """Keeps the points behind all steps."""

    points: list[TrainingPoint] = field(default_factory=list)

    def is_due(self) -> bool:
        return True

    def keep(self, point: TrainingPoint) -> None:
        self.points.append(point)


def drifting(model: torch.nn.Module) -> Correction:
    drift = {name: torch.full_like(p, 1e-3) for name, p in model.named_parameters() if "head" in name}
    return Correction.at(model, proximal_weight=0.2, drift=drift, n_steps=9)


def trained(
    visits: VisitData, config: TrainConfig, correct: Callable[[torch.nn.Module], Correction], **where: object
) -> tuple[dict[str, torch.Tensor], TrainingRecord]:
    model = make_model(CONFIG, 0)
    record = train_epochs(
        model,
        visits,
        config,
        first_epoch=1,
        epochs=3,
        seed=5,
        correction=correct(model),
        **where,  # type: ignore[arg-type]
    )
    return weights_of(model), record


def is_same_record(a: TrainingRecord, b: TrainingRecord) -> bool:
    """Bitwise; tensors have no equality of their own."""
    masses = [(one.exposure.expert_mass, one.behind.expert_mass) for one in (a, b)]
    alike = [
        replace(one, exposure=replace(one.exposure, expert_mass=none), behind=replace(one.behind, expert_mass=none))
        for one in (a, b)
        for none in [torch.zeros(0)]
    ]
    return all(map(torch.equal, *masses)) and repr(alike[0]) == repr(alike[1])


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 3}])
@pytest.mark.parametrize("correct", [lambda model: Correction(), drifting])
def test_a_training_goes_on_behind_every_step_with_the_same_bits(
    settings: dict[str, int], correct: Callable[[torch.nn.Module], Correction], visits: VisitData, tmp_path: Path
) -> None:
    config, seen = TRAIN.model_copy(update=settings), EveryPoint()
    weights, record = trained(visits, config, correct, keeper=seen)
    n_steps = -(-len(visits) // config.batch_size)
    assert [(point.epoch, point.step) for point in seen.points] == [
        (epoch, step) for epoch in (1, 2, 3) for step in range(1, n_steps + 1)
    ]
    for point in seen.points:
        save_checkpoint(tmp_path / "point", join_groups(point.tensors), {})
        read = replace(point, tensors=split_groups(load_checkpoint(tmp_path / "point")[0]))
        torch.manual_seed(point.step)
        on, again = trained(visits, config, correct, point=read)
        assert are_identical(on, weights) and is_same_record(again, record), (point.epoch, point.step)


def test_whom_nobody_asks_for_points_trains_the_same_bits(visits: VisitData) -> None:
    correct = lambda model: Correction()  # noqa: E731
    assert are_identical(trained(visits, TRAIN, correct)[0], trained(visits, TRAIN, correct, keeper=EveryPoint())[0])


PRIVATE = {"noise_multiplier": 1.0, "sample_rate": 0.4, "steps": 6, "seed": 5}
PRIVATE_TRAIN = TRAIN.model_copy(update={"balance": False})


def privately(visits: VisitData, train: TrainConfig = PRIVATE_TRAIN, **settings: object) -> dict[str, torch.Tensor]:
    model = make_model(CONFIG, 1)
    own = {**PRIVATE, "patients": float(len(visits)), **settings}
    train_privately(model, visits, train, PrivacyConfig(noise_multiplier=1.0), **own)  # type: ignore[arg-type]
    return weights_of(model)


def test_a_private_training_goes_on_with_the_steps_that_are_left(visits: VisitData) -> None:
    seen, behind = EveryPoint(), EveryPoint()
    privately(visits, keeper=seen)
    assert [point.step for point in seen.points] == [1, 2, 3, 4, 5, 6]
    privately(visits, point=seen.points[3], keeper=behind)
    assert [point.step for point in behind.points] == [5, 6]
    counts = {name: n for name, n in behind.points[0].tensors["optimiser"].items() if name.endswith("/step")}
    assert counts and all(n.item() == 5 for n in counts.values())
    assert are_identical(privately(visits, point=seen.points[-1]), dict(seen.points[-1].tensors["weights"]))


def test_attack_no_step_behind_a_point_has_noise_that_a_step_before_it_had(visits: VisitData) -> None:
    """Even with the seed of the first part: noise that two steps share could be subtracted."""
    plain = PRIVATE_TRAIN.model_copy(update={"optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 0.0})
    nobody = {"sample_rate": 1e-9, "train": plain}

    def noise(seen: EveryPoint, start: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        flat = [
            torch.cat([w.flatten() for w in weights.values()])
            for weights in (start, *(p.tensors["weights"] for p in seen.points))
        ]
        return [after - before for before, after in pairwise(flat)]

    first, second = EveryPoint(), EveryPoint()
    privately(visits, keeper=first, **nobody)
    privately(visits, keeper=second, point=first.points[2], **nobody)
    before = noise(first, weights_of(make_model(CONFIG, 1)))
    after = noise(second, dict(first.points[2].tensors["weights"]))
    assert len(before) == 6 and len(after) == 3
    for one in after:
        assert all(abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.1 for other in before)


def test_a_point_holds_no_seed_and_no_state_of_the_private_generators(visits: VisitData) -> None:
    seen = EveryPoint()
    privately(visits, keeper=seen)
    assert all(set(point.tensors) == {"weights", "optimiser"} for point in seen.points)
