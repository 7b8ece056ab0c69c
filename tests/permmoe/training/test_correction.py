"""What a federation adds to a site's training changes the weights as its formula says."""

from __future__ import annotations

import pytest
import torch

from permmoe.data.dataset import VisitData
from permmoe.training.correction import NO_CORRECTION, Correction
from permmoe.training.epochs import step_count, train_epochs
from permmoe.training.seeds import make_model
from tests.support.small_training import CONFIG, TRAIN, are_identical, weights_of


def test_proximal_term_keeps_the_weights_near_where_they_began(visits: VisitData) -> None:
    def distance(proximal_weight: float) -> float:
        model = make_model(CONFIG, 0)
        start = [p.detach().clone() for p in model.parameters()]
        train_epochs(
            model,
            visits,
            TRAIN,
            first_epoch=0,
            epochs=4,
            seed=0,
            correction=Correction.at(model, proximal_weight=proximal_weight),
        )
        return sum((p - q).square().sum().item() for p, q in zip(model.parameters(), start, strict=True)) ** 0.5

    free, held, tight = distance(0.0), distance(1.0), distance(100.0)
    assert tight < held < free


def test_the_proximal_term_is_half_mu_times_the_squared_distance_from_the_start() -> None:
    model = make_model(CONFIG, 0)
    correction = Correction.at(model, proximal_weight=0.6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    loss = correction.add_to_loss(torch.tensor(7.0), model, share=0.5)
    assert loss.item() == pytest.approx(7.0 + 0.5 * 0.6 / 2 * 0.25 * n_parameters, rel=1e-5)


def test_the_drift_is_added_in_equal_pieces_over_the_steps_of_a_round(visits: VisitData) -> None:
    model = make_model(CONFIG, 0)
    before = weights_of(model)
    drift = {name: torch.full_like(value, 3.0) for name, value in before.items()}
    n_steps = step_count(len(visits), TRAIN, epochs=2)
    assert n_steps == 2 * 4
    correction = Correction.at(model, drift=drift, n_steps=n_steps)
    correction.after_step(model)
    assert all(torch.allclose(weights_of(model)[name], value + 3.0 / 8) for name, value in before.items())
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    train_epochs(model, visits, TRAIN, first_epoch=0, epochs=2, seed=0, optimiser=still, correction=correction)
    assert all(torch.allclose(weights_of(model)[name], value + 3.0 * 9 / 8) for name, value in before.items())


def test_no_correction_changes_nothing() -> None:
    model = make_model(CONFIG, 0)
    before, loss = weights_of(model), torch.tensor(7.0)
    assert NO_CORRECTION.add_to_loss(loss, model, share=1.0) is loss
    NO_CORRECTION.after_step(model)
    assert are_identical(weights_of(model), before)
