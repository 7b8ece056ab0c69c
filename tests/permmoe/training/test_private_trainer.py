"""Private training: gradients of single visits, a patient's bounded say, noise of the stated size."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from permmoe.config import ModelConfig, ModuleBounds, PrivacyConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.federated.gradient_bounds import gradient_bounds, trained_parameters
from permmoe.federated.modules import ModuleLayout, kind_of
from permmoe.training.clipping import GradientBound
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
PLAIN_SGD = TRAIN.model_copy(update={"optimiser": "sgd", "learning_rate": 1.0, "weight_decay": 0.0})
PRIVACY = PrivacyConfig(noise_multiplier=1.0)
BY_MODULE = PrivacyConfig(noise_multiplier=1.0, module_bounds=ModuleBounds(head=2.0))


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


def changed(data: VisitData, config: ModelConfig = MODEL, **settings: Any) -> torch.Tensor:
    """The step that one private step with plain SGD takes, negated: the mean clipped gradient and the noise."""
    values = {
        "noise_multiplier": 1e-9,
        "sample_rate": 1.0,
        "steps": 1,
        "patients": float(len(data)),
        "seed": 5,
        **settings,
    }
    model = make_model(quiet(config), 1)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    train_privately(model, data, PLAIN_SGD, PRIVACY, **values)
    return before - torch.cat([p.detach().flatten() for p in model.parameters()])


def test_fewer_visits_at_a_time_have_the_same_gradients(visits: VisitData) -> None:
    """Where nothing is drawn: a GPU that is too small for all at once changes the draws alone."""
    config = MODEL.model_copy(update={"router_noise": False, "dropout": 0.0})
    model = make_model(config, 0)
    batch = visits.batch(torch.arange(11))
    whole, in_pieces = (per_visit_gradients(model, batch, TRAIN, n) for n in (32, 3))
    assert whole.keys() == in_pieces.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(in_pieces[name], gradient)


def test_no_patient_moves_the_sum_by_more_than_the_limit_whatever_the_target(visits: VisitData) -> None:
    n = len(visits)
    extreme = replace(visits, target=torch.where(torch.arange(n) == 4, 1e4, visits.target))
    rest = extreme.subset(torch.tensor([i for i in range(n) if i != 4]))
    difference = changed(extreme) * n - changed(rest) * (n - 1)
    assert 0.9 < float(difference.norm()) <= PRIVACY.max_gradient_norm + 1e-3


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


def parts_of(trains: tuple[str, ...] = ()) -> tuple[frozenset[str], tuple[GradientBound, ...]]:
    """What a study trains that clips module by module, and the modules' bounds."""
    model = make_model(quiet(MODEL), 1)
    layout = ModuleLayout.of(model)
    modules = [module for module in layout.modules if not trains or kind_of(module) in trains]
    trained = trained_parameters(model, layout, modules)
    return trained, gradient_bounds(BY_MODULE, layout, modules, trained)


def test_one_step_is_that_of_a_loop_over_patients_that_clips_each_module_by_itself(visits: VisitData) -> None:
    _, bounds = parts_of()
    model = make_model(quiet(MODEL), 1).train()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    batch = all_rows(visits)
    for i in range(len(visits)):
        model.zero_grad()
        total_loss(model(one_of(batch, i)), one_of(batch, i), TRAIN).backward()
        for bound in bounds:
            # Of a module that a visit does not reach there is no gradient.
            pieces = [(name, index, model.get_parameter(name).grad) for name, index in bound.pieces]
            own = [(n, j, (g if j is None else g[j])) for n, j, g in pieces if g is not None]
            length = math.sqrt(sum(float(gradient.square().sum()) for _, _, gradient in own))
            for name, index, gradient in own:
                (total[name] if index is None else total[name][index]).add_(
                    gradient * min(1.0, bound.norm / max(length, 1e-12))
                )
    step = changed(visits, bounds=bounds)
    expected = torch.cat([total.get(name, torch.zeros_like(p)).flatten() for name, p in model.named_parameters()])
    assert torch.allclose(step, expected / len(visits), atol=1e-5)


@pytest.mark.parametrize("module", ["head", "expert/2", "router/gene", "trunk"])
def test_attack_a_patient_of_an_extreme_outcome_moves_no_modules_sum_by_more_than_its_bound(
    module: str, visits: VisitData
) -> None:
    trained, bounds = parts_of()
    layout = ModuleLayout.of(make_model(MODEL, 1))
    n = len(visits)
    extreme = replace(visits, target=torch.where(torch.arange(n) == 4, 1e4, visits.target))
    rest = extreme.subset(torch.tensor([i for i in range(n) if i != 4]))
    difference = changed(extreme, bounds=bounds) * n - changed(rest, bounds=bounds) * (n - 1)
    shapes = {name: p.shape for name, p in make_model(MODEL, 1).named_parameters()}
    whole = dict(zip(shapes, torch.split(difference, [s.numel() for s in shapes.values()]), strict=True))
    own = layout.flatten({name: flat.view(shapes[name]) for name, flat in whole.items()}, module)
    number = [m for m in layout.modules if any(p.parameter in trained for p in layout.slices[m])].index(module)
    assert float(own.norm()) <= bounds[number].norm + 1e-3
    assert float(difference.norm()) <= BY_MODULE.max_gradient_norm + 1e-3


def test_attack_bounds_that_are_too_large_move_the_sum_by_no_more_than_the_noise_is_for(visits: VisitData) -> None:
    _, bounds = parts_of()
    loose = [replace(bound, norm=1e3) for bound in bounds]
    n = len(visits)
    extreme = replace(visits, target=torch.where(torch.arange(n) == 4, 1e4, visits.target))
    rest = extreme.subset(torch.tensor([i for i in range(n) if i != 4]))
    difference = changed(extreme, bounds=loose) * n - changed(rest, bounds=loose) * (n - 1)
    assert float(difference.norm()) <= PRIVACY.max_gradient_norm + 1e-3


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_what_is_not_trained_stays_bit_by_bit_and_has_no_noise(optimiser: str, visits: VisitData) -> None:
    trained, bounds = parts_of(("head", "router"))
    model = make_model(MODEL, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train = TRAIN.model_copy(update={"optimiser": optimiser, "weight_decay": 0.5})
    train_privately(
        model, visits, train, BY_MODULE, noise_multiplier=2.0, sample_rate=0.5, steps=3, patients=31.0, seed=1,
        trained=trained, bounds=bounds,
    )  # fmt: skip
    for name, parameter in model.named_parameters():
        is_still = torch.equal(parameter.detach(), before[name])
        assert is_still == (name not in trained), name
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned == {name for name, parameter in make_model(MODEL, 1).named_parameters() if parameter.requires_grad}


def test_the_noise_of_few_parameters_has_the_size_that_it_has_of_all(visits: VisitData) -> None:
    trained, bounds = parts_of(("head",))
    settings = {"noise_multiplier": 3.0, "sample_rate": 1e-6, "trained": trained, "bounds": bounds}
    steps = [changed(visits.subset(torch.arange(1)), seed=s, **settings) for s in range(40)]
    noise = torch.stack(steps) * 1e-6
    moved = noise.std(0) > 0
    model = make_model(MODEL, 1)
    assert int(moved.sum()) == sum(model.get_parameter(name).numel() for name in trained)
    assert float(noise[:, moved].std()) == pytest.approx(3.0 * BY_MODULE.max_gradient_norm, rel=0.03)


def test_attack_the_size_of_the_noise_does_not_tell_how_many_patients_there_are(visits: VisitData) -> None:
    """Divided by their true number it would, to one, once a model has enough numbers: its spread is known."""
    nobody = {"sample_rate": 1e-9, "noise_multiplier": 1.0, "patients": 29.4}
    more, less = (changed(data, **nobody) for data in (visits, visits.subset(torch.arange(30))))
    assert torch.equal(more, less)
