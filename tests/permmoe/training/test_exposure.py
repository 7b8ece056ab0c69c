"""Exposure counts what a training did."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product

import pytest
import torch
from torch import Tensor

from permmoe.data.dataset import VisitData
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from tests.support.small_training import CONFIG, TRAIN


def test_exposure_agrees_with_counting_visit_by_visit(visits: VisitData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, ...]] = []
    who: list[float] = []
    gates: list[Tensor] = []
    forward = PerMMoE.forward

    def spy(model: PerMMoE, batch: object, **settings: bool) -> object:
        output = forward(model, batch, **settings)  # type: ignore[arg-type]
        seen.extend(tuple(row) for row in batch.observed.tolist())  # type: ignore[attr-defined]
        who.extend(batch.baseline.tolist())  # type: ignore[attr-defined]
        gates.append(output.routing.gates.detach())
        return output

    monkeypatch.setattr(PerMMoE, "forward", spy)
    record = train_epochs(make_model(CONFIG, 0), visits, TRAIN, first_epoch=0, epochs=5, seed=2)
    exposure = record.exposure
    masks = Counter(sum(1 << j for j, has in enumerate(row) if has) for row in seen)
    assert dict(exposure.patterns) == {mask: n / 5 for mask, n in masks.items()}
    assert exposure.visits == pytest.approx(len(visits))
    for j, name in enumerate(visits.names):
        assert exposure.observed[name] == pytest.approx(sum(row[j] for row in seen) / 5)
        assert exposure.imputed[name] == pytest.approx(sum(not row[j] for row in seen) / 5)
    mass = torch.zeros(CONFIG.experts)
    for part in gates:
        for visit, modality, token in product(*map(range, part.shape[:3])):
            mass += part[visit, modality, token] / (part.shape[1] * part.shape[2])
    torch.testing.assert_close(exposure.expert_mass, mass / 5, rtol=1e-4, atol=1e-4)
    assert exposure.expert_mass.sum().item() == pytest.approx(len(visits), rel=1e-4)
    # How many different visits are behind each part: no two have the same baseline here.
    assert len(set(who)) == len(visits)
    sent: dict[int, set[float]] = defaultdict(set)
    for visit, row in zip(who, [row for part in gates for row in part], strict=True):
        for expert in (row > 0).any(0).any(0).nonzero().flatten().tolist():
            sent[expert].add(visit)
    behind = record.behind
    assert behind.visits == len(visits)
    assert behind.expert_mass.tolist() == [len(sent[expert]) for expert in range(CONFIG.experts)]
    for mask in masks:
        having = {
            v for v, row in zip(who, seen, strict=True) if sum(1 << j for j, has in enumerate(row) if has) == mask
        }
        assert behind.patterns[mask] == len(having)
    for j, name in enumerate(visits.names):
        assert behind.observed[name] == len({v for v, row in zip(who, seen, strict=True) if row[j]})
        assert behind.imputed[name] == len({v for v, row in zip(who, seen, strict=True) if not row[j]})
