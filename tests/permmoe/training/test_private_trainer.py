"""Private training: gradients of single visits, a patient's bounded say, noise of the stated size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from permmoe.config import ModelConfig, PrivacyConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.training.dense_pass import DensePerMMoE, dense_inputs
from permmoe.training.losses import total_loss
from permmoe.training.private_trainer import per_visit_gradients, train_privately
from permmoe.training.seeds import make_model
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.tiny_federation import MODEL, write_site

SMALL = small_config()
TRAIN = TrainConfig(modality_dropout=0.0, balance=False, seed=3)
PRIVACY = PrivacyConfig(noise_multiplier=1.0)


def quiet(config: ModelConfig) -> ModelConfig:
    """Without anything random in the forward pass."""
    return config.model_copy(
        update={"dropout": 0.0, "router_noise": False, "encoder": config.encoder.model_copy(update={"dropout": 0.0})}
    )


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> VisitData:
    folder: Path = tmp_path_factory.mktemp("site")
    return site_visits(read_site(write_site(folder, "north", visits=31)), MODEL)


def all_rows(data: VisitData) -> Batch:
    return data.batch(torch.arange(len(data)))


@pytest.mark.parametrize("routers", ["per_modality", "shared"])
@pytest.mark.parametrize("kind", ["tabular", "pooled"])
def test_the_dense_pass_gives_the_sparse_passs_predictions(routers: str, kind: str, visits: VisitData) -> None:
    config = quiet(MODEL if kind == "tabular" else SMALL).model_copy(update={"routers": routers})
    batch = all_rows(visits) if kind == "tabular" else random_batch(config, random_pattern(15, 3))
    model = make_model(config, 1)
    dense, inputs = DensePerMMoE(model), dense_inputs(batch, config)
    found = dense(inputs, batch.observed, batch.baseline).prediction
    assert torch.allclose(found, model(batch).prediction, atol=1e-5)


@pytest.mark.parametrize("kind", ["tabular", "pooled"])
def test_every_visits_gradient_is_that_of_a_batch_of_it_alone(kind: str, visits: VisitData) -> None:
    config = quiet(MODEL if kind == "tabular" else SMALL)
    batch = all_rows(visits) if kind == "tabular" else random_batch(config, random_pattern(15, 3))
    model = make_model(config, 1).train()
    found = per_visit_gradients(model, batch, TRAIN)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    for i in range(len(batch.target)):
        model.zero_grad()
        total_loss(model(one_of(batch, i)), one_of(batch, i), TRAIN).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert torch.allclose(found[name][i], expected, atol=1e-5), name


def one_of(batch: Batch, i: int) -> Batch:
    observed = batch.observed[i : i + 1]
    before = batch.observed[:i].sum(0)
    inputs = {
        name: rows[before[m] : before[m] + 1]
        for m, (name, rows) in enumerate(batch.inputs.items())
        if bool(observed[0, m])
    }
    return Batch(inputs, observed, batch.baseline[i : i + 1], batch.target[i : i + 1])


def changed(data: VisitData, config: ModelConfig = MODEL, **settings: float) -> torch.Tensor:
    """The step that one private step with plain SGD takes, negated: the mean clipped gradient and the noise."""
    values = {"noise_multiplier": 1e-9, "sample_rate": 1.0, "steps": 1, "seed": 5, **settings}
    model = make_model(quiet(config), 1)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    train_privately(model, data, TRAIN, PRIVACY, **values)  # type: ignore[arg-type]
    return before - torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def plain_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "permmoe.training.private_trainer.make_optimiser", lambda model, _: torch.optim.SGD(model.parameters(), lr=1.0)
    )


def test_fewer_visits_at_a_time_have_the_same_gradients(visits: VisitData) -> None:
    """Where nothing is drawn: a GPU that is too small for all at once changes the draws alone."""
    config = MODEL.model_copy(update={"router_noise": False, "dropout": 0.0})
    model = make_model(config, 0)
    batch = visits.batch(torch.arange(11))
    whole, in_pieces = (per_visit_gradients(model, batch, TRAIN, n) for n in (32, 3))
    assert whole.keys() == in_pieces.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_pieces[name], gradient)


@pytest.mark.usefixtures("plain_sgd")
def test_no_patient_moves_the_sum_by_more_than_the_limit_whatever_the_target(visits: VisitData) -> None:
    n = len(visits)
    extreme = replace(visits, target=torch.where(torch.arange(n) == 4, 1e4, visits.target))
    rest = extreme.subset(torch.tensor([i for i in range(n) if i != 4]))
    difference = changed(extreme) * n - changed(rest) * (n - 1)
    assert 0.9 < float(difference.norm()) <= PRIVACY.max_gradient_norm + 1e-3


@pytest.mark.usefixtures("plain_sgd")
def test_the_noise_has_the_stated_size_where_no_gradient_is(visits: VisitData) -> None:
    steps = [changed(visits.subset(torch.arange(1)), noise_multiplier=3.0, sample_rate=1e-6, seed=s) for s in range(20)]
    # Nobody is drawn: what is left is noise of SD σ·limit over the expected number of patients.
    noise = torch.stack(steps) * 1e-6
    trained = noise.std(0) > 0
    assert float(noise[:, trained].std()) == pytest.approx(3.0 * PRIVACY.max_gradient_norm, rel=0.02)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(visits: VisitData) -> None:
    settings = {"noise_multiplier": 1.0, "sample_rate": 0.3, "steps": 3}
    first, again, other = (changed(visits, **settings, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_private_training_leaves_the_global_random_state_alone(visits: VisitData) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    changed(visits, sample_rate=0.5, steps=2)
    assert torch.equal(torch.rand(3), expected)
