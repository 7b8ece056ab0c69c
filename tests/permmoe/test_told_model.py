"""One model for several horizons: it is told the horizon, and trained on those that each patient has."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from permmoe.config import ModelConfig, TrainConfig, parse_config
from permmoe.data.dataset import VisitData
from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import combination_predictions
from permmoe.export.portable import PortableModel
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import why_not_stacked
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_training import are_identical, weights_of
from tests.support.small_visits import small_visits
from tests.support.told_visits import told

CONFIG = small_config(n_volumes=0, n_tables=3, horizons_months=(12.0, 24.0, 48.0))
MONTHS = CONFIG.horizons_months
TRAIN = TrainConfig(epochs=3, batch_size=16)


def visits(seed: int = 0) -> VisitData:
    data = small_visits(CONFIG, 31, seed)
    changes = data.target[:, None] * torch.tensor(MONTHS) / 24
    changes[::3, 0] = nan
    changes[1::3, 1:] = nan
    return told(data, MONTHS, changes)


def trained(data: VisitData, epochs: int = 3) -> PerMMoE:
    model = make_model(CONFIG, 0)
    train_epochs(model, data, TRAIN, first_epoch=0, epochs=epochs, seed=0)
    return model


def test_the_prediction_goes_with_the_horizon_through_no_change_at_the_visit() -> None:
    torch.manual_seed(0)
    model, batch = PerMMoE(CONFIG).eval(), random_batch(CONFIG, random_pattern(13, 3))
    with torch.no_grad():
        found = [model(replace(batch, horizon=torch.full((13,), months))).prediction for months in (1e-6, 12.0, 24.0)]
    assert found[0].abs().max() < 1e-5
    # In proportion but for what the head makes of the horizon, which no line would.
    assert not torch.allclose(2 * found[1], found[2], rtol=1e-3)


def test_a_batch_s_visits_may_have_horizons_of_their_own() -> None:
    torch.manual_seed(0)
    model, batch = PerMMoE(CONFIG).eval(), random_batch(CONFIG, random_pattern(13, 3))
    months = torch.arange(13) + 12.0
    with torch.no_grad():
        mixed = model(replace(batch, horizon=months)).prediction
        alone = [model(replace(batch, horizon=torch.full((13,), float(m)))).prediction[i] for i, m in enumerate(months)]
    torch.testing.assert_close(mixed, torch.stack(alone))


def test_a_model_that_is_told_nothing_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"the model is told the horizon .* and the batch has none"):
        PerMMoE(CONFIG)(random_batch(CONFIG, random_pattern(3, 3)))


def test_training_reads_the_known_changes_of_all_horizons_and_no_unknown_one() -> None:
    data = visits()
    assert data.horizons is not None
    weights = weights_of(trained(data))
    assert all(bool(w.isfinite().all()) for w in weights.values())
    # The outcome at the table's own horizon is read where the model's horizons have it, and nowhere else.
    blind = replace(data, target=torch.full_like(data.target, nan))
    assert are_identical(weights_of(trained(blind)), weights)
    for column in range(len(MONTHS)):
        changes = data.horizons.changes.clone()
        changes[:, column] += 1
        moved = replace(data, horizons=replace(data.horizons, changes=changes))
        assert not are_identical(weights_of(trained(moved)), weights)


def test_trained_on_all_horizons_it_tells_them_apart() -> None:
    """The change of every patient is a tenth of a point a month, at whichever horizon it was seen."""
    data = small_visits(CONFIG, 61)
    changes = torch.tensor(MONTHS).expand(61, -1) / 10
    model = make_model(CONFIG.model_copy(update={"dropout": 0.0}), 0)
    train = TrainConfig(learning_rate=3e-3, batch_size=16, modality_dropout=0.0)
    train_epochs(model, told(data, MONTHS, changes.clone()), train, first_epoch=0, epochs=30, seed=0)
    assert data.horizons is None
    for months in (12.0, 36.0, 48.0):
        asked = told(data, MONTHS)
        assert asked.horizons is not None
        asked = replace(asked, horizons=replace(asked.horizons, own=torch.full((61,), months)))
        predictions = torch.from_numpy(combination_predictions(model, asked))
        assert float(predictions.nanmean()) == pytest.approx(months / 10, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"horizons_months": (24.0,)}, "name two horizons or more"),
        ({"horizons_months": (36.0, 24.0)}, "each once, the nearest first"),
        ({"ridge": {}}, "ridge predicts without a horizon"),
        ({"unimodal_heads": True}, "unimodal_heads predicts without a horizon"),
        ({"head": "linear"}, "a linear head cannot bend with the horizon"),
    ],
)
def test_what_would_predict_without_the_horizon_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        parse_config({"horizons_months": (24.0, 36.0), **changes}, ModelConfig, "model.yaml")


def test_exports_stacks_and_federations_say_that_they_have_no_horizon() -> None:
    model = PerMMoE(CONFIG)
    with pytest.raises(ConfigurationError, match=r"told the horizon .* cannot be exported"):
        PortableModel(model)
    assert why_not_stacked(model, [visits()], TRAIN) == "the dense pass of a stack is told no horizon"
    with pytest.raises(ValidationError, match=r"outcomes of one horizon; leave model\.horizons_months out"):
        RoundPlan(name="s", model=CONFIG)
