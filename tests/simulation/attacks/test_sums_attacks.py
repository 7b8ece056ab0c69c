"""Attacks on sums succeed where each sum is looked at by itself, and fail against the client."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.data.cohort import CohortConfig
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import Modality
from permmoe.training.seeds import make_model
from permmoe_simulation.attacks.crafted import _curve, crafted_model, crafted_trial
from permmoe_simulation.attacks.differencing import AFTER, BEFORE, differencing_trial, isolating_query_plans
from permmoe_simulation.attacks.participants import participants_game
from permmoe_simulation.attacks.study import AttackStudy
from permmoe_simulation.attacks.sums_report import crafted_section, differencing_section, participants_section

MODEL = ModelConfig(
    modalities=(Modality(name="t1"), Modality(name="flair")),
    grid=VolumeGrid(shape=(4, 6, 10)),
    encoder=EncoderConfig(kind="pooled", cells=(2, 3, 5)),
    tokens=1,
    width=8,
    heads=2,
    experts=3,
    top_k=1,
    expert_hidden=7,
    head_hidden=11,
)  # fmt: skip
STUDY = AttackStudy(
    name="tiny", description="", cohort=CohortConfig(), model=MODEL, train=TrainConfig(), hospital_visits=25,
    crafted_cells=3, query_plans=50, differencing_trials=3, crafted_trials=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def visits() -> VisitData:
    """Synthetic visits, of which a few lack an image."""
    n, rng = 60, torch.Generator().manual_seed(3)
    observed = torch.rand(n, 2, generator=rng) < 0.9
    observed[:, 0] |= ~observed.any(1)
    return VisitData(
        visits=VisitTable(tuple(Visit(f"s{i}", "north", "bl", 1.0, 0.25 * i, 24.0) for i in range(n))),
        names=MODEL.names,
        observed=observed,
        baseline=torch.ones(n),
        target=0.25 * torch.arange(n),
        stored_rows=torch.where(observed, observed.long().cumsum(0) - 1, -1),
        inputs={name: MemoryRows(torch.randn(n, 1, 2, 3, 5, generator=rng)) for name in MODEL.names},
    )


def test_outcomes_of_few_patients_follow_from_sums_but_not_from_the_clients(visits: VisitData) -> None:
    trials = pd.DataFrame(row for trial in range(3) for row in differencing_trial(STUDY, visits, trial))
    by_rule = trials.groupby("rule")["recovered"].sum()
    assert by_rule[BEFORE] > 0 and by_rule[AFTER] == 0
    assert trials["largest_error_points"].max() < 1e-5
    assert (trials[trials["rule"] == AFTER]["sums"] > 0).all()
    isolating = isolating_query_plans(50, 5, seed=0)
    assert isolating[BEFORE] > 10 and isolating[AFTER] == 0
    section = differencing_section(STUDY, trials, isolating)
    assert "nobody recovered" in str(section.items)


def test_a_crafted_model_looks_at_one_voxel_of_one_modality(visits: VisitData) -> None:
    model = crafted_model(make_model(MODEL, 0), "t1", 17, seed=1)
    both = visits.subset(visits.observed.all(1).nonzero().flatten())
    batch = both.batch(torch.arange(len(both)))
    with torch.no_grad():
        first = model(batch).prediction
        for name, index, is_seen in (("t1", 17, True), ("t1", 16, False), ("flair", 17, False)):
            inputs = {key: value.clone() for key, value in batch.inputs.items()}
            inputs[name].view(len(both), -1)[:, index] += 1.0
            other = model(type(batch)(inputs, batch.observed, batch.baseline, batch.target)).prediction
            assert torch.allclose(first, other, atol=1e-6) != is_seen
        alone = both.limited(both.observed & torch.tensor([True, False]))
        withheld = model(alone.batch(torch.arange(len(alone)))).prediction
    assert torch.allclose(first, withheld, atol=1e-5)


@pytest.mark.parametrize("width", [8, 64])
def test_a_crafted_model_tells_values_apart_inside_the_outcomes_range(width: int) -> None:
    config = MODEL.model_copy(update={"width": width, "head_hidden": 2 * width})
    assert config.outcome_range
    for seed in range(5):
        curve = _curve(crafted_model(make_model(config, 0), "t1", 17, seed), "t1", 17, torch.linspace(-8, 8, 50))
        assert float(curve.abs().max()) < config.outcome_range[1], "a model holds its predictions at the range's ends"
        assert len(curve.round(decimals=4).unique()) > 40


def test_crafted_models_read_voxels_but_not_from_the_client(visits: VisitData) -> None:
    before, after = crafted_trial(STUDY, visits, 0)
    assert before["read"] == 3 and float(str(before["median_error"])) < 1e-3
    assert after["answered"] == after["read"] == 0 and after["asked"] == 6
    assert "A hospital that holds to its plan answers 0 of these 6" in str(
        crafted_section(STUDY, pd.DataFrame([before, after])).items[0]
    )


def test_a_difference_of_two_sites_hides_each_and_of_three_also_from_one_who_colludes() -> None:
    games = {(d, c): participants_game(60, 7, d, c, seed=1) for d in (1, 2, 3) for c in (0, 1, 2)}
    assert games[1, 0].exposed > 20 and games[2, 0].exposed == games[3, 0].exposed == games[3, 1].exposed == 0
    assert games[2, 1].exposed > 0 and games[3, 2].exposed > 0
    assert games[1, 0].answered == 1.0 > games[2, 0].answered > games[3, 0].answered
    assert "withstands one such site" in str(participants_section(STUDY, list(games.values())).items[0])
