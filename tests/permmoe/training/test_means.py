"""Means of inputs are those of the visits given, and no gradient moves them."""

from __future__ import annotations

import pytest
import torch

import permmoe.training.means as means_module
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.layers.encoders import Centred
from permmoe.training.epochs import train_epochs
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from tests.support.small_training import CONFIG, TRAIN, weights_of
from tests.support.small_visits import small_visits


def test_centre_is_the_mean_over_the_visits_given_and_no_gradient_moves_it(
    visits: VisitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(means_module, "READ_AT_ONCE", 3)
    train = visits.subset(torch.arange(17))
    model = make_model(CONFIG, 0)
    before = weights_of(model)
    record = set_means(model, train)
    for column, name in enumerate(CONFIG.names):
        rows = visits.inputs[name]
        assert isinstance(rows, MemoryRows)
        expected = sum(rows.rows[int(visits.stored_rows[i, column])] for i in range(17) if visits.observed[i, column])
        n = int(visits.observed[:17, column].sum())
        centre = next(m for m in model.encoders[name].modules() if isinstance(m, Centred)).centre
        torch.testing.assert_close(centre.data, torch.as_tensor(expected) / n, atol=1e-5, rtol=0)
        assert record.exposure.observed[name] == n
    changed = {name for name, value in weights_of(model).items() if not torch.equal(value, before[name])}
    assert changed == {f"encoders.{name}.features.centre" for name in CONFIG.names}
    centred = weights_of(model)
    train_epochs(model, train, TRAIN, first_epoch=0, epochs=1, seed=0)
    assert all(torch.equal(weights_of(model)[name], centred[name]) for name in changed)


def test_a_modality_that_nobody_has_keeps_its_encoder(visits: VisitData) -> None:
    observed = torch.tensor([[True, True, False]]).expand(13, 3)
    model = make_model(CONFIG, 0)
    before = weights_of(model)
    data = small_visits(CONFIG, 13, observed=observed)
    set_means(model, data)
    train_epochs(model, data, TRAIN, first_epoch=0, epochs=1, seed=0)
    absent, present = CONFIG.names[2], CONFIG.names[0]
    for name, value in weights_of(model).items():
        if name.startswith(f"encoders.{absent}."):
            assert torch.equal(value, before[name])
    assert not torch.equal(
        weights_of(model)[f"encoders.{present}.project.weight"], before[f"encoders.{present}.project.weight"]
    )
