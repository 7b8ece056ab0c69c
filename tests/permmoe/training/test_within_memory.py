"""A step that does not fit into a GPU's memory is taken in pieces, from the beginning of the epoch that it is in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.errors import DeviceUnusable
from permmoe.evaluation.combinations import combination_predictions
from permmoe.training.fit import EpochReport, FitState, fit
from permmoe.training.seeds import make_model
from permmoe.training.within_memory import at_a_time, visits_of_a_step, within_memory
from tests.support.pretended_gpu import limit_memory
from tests.support.small_training import CONFIG, TRAIN, are_identical

FULL = torch.OutOfMemoryError("CUDA out of memory")


def fitted(data: VisitData, config: TrainConfig, resume: FitState | None = None) -> list[FitState]:
    """The state after every epoch."""
    states: list[FitState] = []

    def keep(report: EpochReport) -> None:
        states.append(report.state)

    fit(make_model(CONFIG, 0), data, data, config, resume=resume, on_epoch=keep)
    return states


def test_a_training_that_does_not_fit_is_the_one_with_micro_batches_bit_by_bit(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = TRAIN.model_copy(update={"keep": "last", "validate_every": 99})
    told = fitted(visits, config.model_copy(update={"micro_batch": 2}))[-1]
    limit_memory(monkeypatch, 3)
    found = fitted(visits, config)[-1]
    assert are_identical(found.weights, told.weights) and are_identical(found.optimiser, told.optimiser)
    [line] = [text for text in caplog.messages if "step" in text]
    assert "a step of 7 visits: begun anew with 2 at a time" in line and "s0" not in line


@pytest.mark.parametrize("after", [2, 9, 13])
def test_memory_that_becomes_too_small_within_an_epoch_counts_no_step_twice(
    after: int, visits: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of an epoch before the one that failed are undone, moments of the optimiser with them."""
    config = TRAIN.model_copy(update={"keep": "last", "validate_every": 99})
    steps_an_epoch = -(-len(visits) // config.batch_size)
    whole_epochs = after // steps_an_epoch
    before = fitted(visits, config)[:whole_epochs]
    in_pieces = config.model_copy(update={"micro_batch": 4})
    expected = fitted(visits, in_pieces, resume=before[-1] if before else None)[-1]
    limit_memory(monkeypatch, 4, after=after)
    found = fitted(visits, config)[-1]
    assert after % steps_an_epoch, "memory ends in the middle of an epoch"
    assert are_identical(found.weights, expected.weights) and are_identical(found.optimiser, expected.optimiser)


def test_later_epochs_begin_with_what_was_found_to_fit(visits: VisitData, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = limit_memory(monkeypatch, 4)
    fitted(visits, TRAIN.model_copy(update={"keep": "last", "validate_every": 99}))
    assert asked.count(TRAIN.batch_size) == 1


def test_a_visit_that_does_not_fit_by_itself_is_an_error_that_says_what_to_do() -> None:
    tried: list[int] = []

    def never(size: int) -> None:
        tried.append(size)
        raise FULL

    begun: list[int] = []
    with pytest.raises(DeviceUnusable, match=r"does not hold the step of a single visit; .*checkpoint_encoders"):
        within_memory(7, never, lambda: begun.append(len(tried)))
    assert tried == [7, 4, 2, 1] and begun == [1, 2, 3]


def test_another_error_begins_nothing_anew() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(4, broken, lambda: pytest.fail("begun anew"))


def test_what_fits_is_computed_once_and_with_the_configuration_as_it_is() -> None:
    assert within_memory(7, lambda size: size, lambda: pytest.fail("begun anew")).found == 7
    config = TrainConfig(batch_size=8)
    assert at_a_time(config, 8) is config and at_a_time(config, 3).micro_batch == 3
    own = TrainConfig(batch_size=8, micro_batch=3)
    assert visits_of_a_step(own) == 3 and at_a_time(own, 3) is own
    assert visits_of_a_step(TrainConfig(batch_size=8, micro_batch=50)) == 8


def test_an_evaluation_that_does_not_fit_encodes_fewer_visits_at_a_time(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(CONFIG, 0)
    whole = combination_predictions(model, visits)
    asked = limit_memory(monkeypatch, 5)
    found = combination_predictions(model, visits)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    fits = [size for size in asked if size <= 5]
    assert sum(fits) == len(visits) and len(caplog.messages) == len(asked) - len(fits)
    limit_memory(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        combination_predictions(model, visits)
