"""Fits side by side end as each ends by itself: its means, its running mean, its best epoch, its patience."""

from __future__ import annotations

import pytest
import torch

from permmoe.config import ModelConfig, TrainConfig
from permmoe.model import PerMMoE
from permmoe.training.fit import EpochReport, fit
from permmoe.training.seeds import make_model
from permmoe.training.stacked_fit import Fit, fit_stacked
from tests.permmoe.training.test_stacked_epochs import QUIET, assert_close
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

CONFIG = small_config(2, 1, **QUIET)
TRAIN = TrainConfig(epochs=4, batch_size=7, learning_rate=1e-3, modality_dropout=0.3, averaging_decay=0.5)
SEEDS = (1, 2, 3)


def fits(reports: dict[int, list[EpochReport]]) -> list[Fit]:
    return [
        Fit(
            make_model(CONFIG, seed),
            small_visits(CONFIG, 9 + seed, seed=seed),
            small_visits(CONFIG, 6, seed=10 + seed),
            seed,
            reports.setdefault(seed, []).append,
        )
        for seed in SEEDS
    ]


def alone(number: int, config: TrainConfig) -> tuple[PerMMoE, list[EpochReport]]:
    reports: dict[int, list[EpochReport]] = {}
    one = fits(reports)[number]
    fit(one.model, one.train, one.validation, config.model_copy(update={"seed": one.seed}), on_epoch=one.on_epoch)
    return one.model, reports[one.seed]


@pytest.mark.parametrize("changes", [{}, {"keep": "last"}, {"validate_every": 3}, {"averaging_decay": 0.0}], ids=str)
def test_every_fit_ends_as_it_ends_by_itself(changes: dict[str, object]) -> None:
    config = TrainConfig.model_validate({**TRAIN.model_dump(), **changes})
    reports: dict[int, list[EpochReport]] = {}
    together = fits(reports)
    states = fit_stacked(together, config)
    for number, one in enumerate(together):
        model, expected = alone(number, config)
        assert_close(one.model, model)
        assert [report.epoch for report in reports[one.seed]] == [report.epoch for report in expected]
        assert states[number].best_epoch == expected[-1].state.best_epoch
        assert states[number].best_mse == pytest.approx(expected[-1].state.best_mse, rel=1e-3)
        for mine, other in zip(reports[one.seed], expected, strict=True):
            assert mine.loss == pytest.approx(other.loss, rel=1e-3)


def test_a_fit_that_loses_patience_stops_and_the_others_go_on() -> None:
    config = TRAIN.model_copy(
        update={"epochs": 12, "patience_epochs": 1, "learning_rate": 0.05, "averaging_decay": 0.0, "keep": "best"}
    )
    reports: dict[int, list[EpochReport]] = {}
    fit_stacked(fits(reports), config)
    lengths = [len(reports[seed]) for seed in SEEDS]
    assert lengths == [len(alone(number, config)[1]) for number in range(len(SEEDS))]
    assert len(set(lengths)) > 1


def test_tables_may_be_scaled_by_each_models_own_visits() -> None:
    both = [
        Fit(make_model(scaled, 1), small_visits(CONFIG, 9, seed=1), small_visits(CONFIG, 6, seed=2), 1)
        for scaled in (CONFIG, with_scale(7.0))
    ]
    fit_stacked(both, TRAIN)
    for one, scale in zip(both, (1.0, 7.0), strict=True):
        single = make_model(CONFIG if scale == 1.0 else with_scale(scale), 1)
        fit(single, one.train, one.validation, TRAIN.model_copy(update={"seed": 1}))
        assert_close(one.model, single)
    tables = [one.model.encoders["table0"].project.weight for one in both]
    assert not torch.equal(*tables)


def with_scale(deviation: float) -> ModelConfig:
    modalities = [
        m.model_copy(update={"means": (0.0,) * len(m.columns), "deviations": (deviation,) * len(m.columns)})
        if m.columns
        else m
        for m in CONFIG.modalities
    ]
    return CONFIG.model_copy(update={"modalities": tuple(modalities)})


def test_no_epoch_is_refused_as_by_a_single_fit() -> None:
    with pytest.raises(ValueError, match="no epoch"):
        fit_stacked(fits({}), TRAIN.model_copy(update={"epochs": 0}))
