"""Encoders learn from scans alone: what is hidden is read off the rest, and no outcome is looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from permmoe.config import EncoderConfig, PretrainingConfig, RunConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.data.visits import VisitTable
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.fit import fit
from permmoe.training.means import set_means
from permmoe.training.pretraining import Hidden, hidden_cells, pretrain, reconstruction_loss
from permmoe.training.seeds import make_model
from permmoe.training.stacked_fit import Fit, fit_stacked
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_training import TRAIN, are_identical, weights_of
from tests.support.small_visits import small_visits

MIXED = small_config(n_volumes=3, n_tables=1)
HOW = PretrainingConfig(hidden=0.4, block=2, batch_size=7, learning_rate=3e-3)
ACROSS = HOW.model_copy(update={"is_across": True})


def slow_loss(model: PerMMoE, batch: Batch, hidden: Hidden, how: PretrainingConfig) -> float:
    """Visit by visit and cell by cell, as the module's header says it."""
    names = [name for name in model.config.names if name.startswith("volume")]
    row_of: dict[tuple[str, int], int] = {}
    for name in names:
        having = batch.observed[:, model.config.names.index(name)].nonzero().flatten().tolist()
        row_of |= {(name, visit): row for row, visit in enumerate(having)}
    pairs = [(a, b) for a in names for b in names if a == b or how.is_across]
    losses = []
    for source, target in pairs:
        error = total = 0.0
        for visit in range(len(batch.observed)):
            if (source, visit) not in row_of or (target, visit) not in row_of:
                continue
            seen, wanted = (_cells(model, batch, name, row_of[name, visit]) for name in (source, target))
            covered = hidden[source][row_of[source, visit]].tolist()
            left = torch.tensor(
                [0.0 if is_hidden else x / (1 - how.hidden) for x, is_hidden in zip(seen, covered, strict=True)]
            )
            tokens = (model.encoders[source].project.weight @ left + model.encoders[source].project.bias).detach()
            weight = model.encoders[target].project.weight.detach()
            gain = weight.shape[1] / weight.shape[0]
            for cell, truth in enumerate(wanted):
                if source != target or covered[cell]:
                    error += (gain * float(weight[:, cell] @ tokens) - truth) ** 2
                    total += truth**2
        if total:
            losses.append(error / total)
    return sum(losses) / len(losses)


def _cells(model: PerMMoE, batch: Batch, name: str, row: int) -> list[float]:
    values: Tensor = batch.inputs[name][row] - model.encoders[name].features.centre[0]
    return [float(x) for x in values.flatten()]


@pytest.mark.parametrize("how", [HOW, ACROSS], ids=["by itself", "across"])
def test_the_loss_is_that_of_each_visit_and_cell(how: PretrainingConfig) -> None:
    torch.manual_seed(3)
    model, batch = make_model(MIXED, 0), random_batch(MIXED, random_pattern(13, 4))
    for encoder in list(model.encoders.values())[:3]:
        torch.nn.init.normal_(encoder.features.centre)
        torch.nn.init.normal_(encoder.project.bias)
    hidden = hidden_cells(MIXED, batch, how, torch.Generator().manual_seed(1))
    assert set(hidden) == {"volume0", "volume1", "volume2"}
    assert reconstruction_loss(model, batch, hidden, how).item() == pytest.approx(
        slow_loss(model, batch, hidden, how), rel=1e-4
    )


def test_blocks_are_hidden_whole_with_the_chance_that_is_asked_for() -> None:
    config = small_config(encoder=EncoderConfig(cells=(5, 7, 3)))
    batch = random_batch(config, torch.ones(2000, 3, dtype=torch.bool))
    hidden = hidden_cells(config, batch, HOW, torch.Generator().manual_seed(0))["volume1"].view(-1, 5, 7, 3)
    for x, y, z in ((0, 0, 0), (2, 4, 0)):
        block = hidden[:, x : x + 2, y : y + 2, z : z + 2].flatten(1)
        assert torch.equal(block.all(1), block.any(1))
    # A block at the rim is smaller, and a block by itself.
    assert not torch.equal(hidden[:, 4, 6, 2], hidden[:, 3, 6, 2])
    assert float(hidden.double().mean()) == pytest.approx(0.4, abs=0.02)


def test_a_scan_that_lies_in_a_few_directions_is_read_back() -> None:
    """Of a scan of so many directions as tokens can hold next to nothing is left unexplained."""
    config = small_config(n_volumes=1)
    visits = small_visits(config, 211)
    torch.manual_seed(0)
    directions = torch.randn(2, 30)
    scans = (torch.randn(211, 2) @ directions).view(211, 1, 2, 3, 5)
    visits = replace(visits, inputs={"volume0": type(visits.inputs["volume0"])(scans)})  # type: ignore[call-arg]
    model = make_model(config, 0)
    set_means(model, visits)
    how = PretrainingConfig(hidden=0.2, block=1, batch_size=32, learning_rate=3e-3)
    first = pretrain(model, visits, how, first_epoch=0, epochs=1, seed=5).loss_sum / 211
    last = pretrain(model, visits, how, first_epoch=1, epochs=60, seed=5).loss_sum / 211
    assert last < 0.1 < 1 < first


def test_no_outcome_and_no_table_plays_a_role_and_nothing_else_is_moved(visits: VisitData) -> None:
    config = MIXED
    data = small_visits(config, 23)
    unlabelled = replace(data, target=torch.full_like(data.target, float("nan")), baseline=data.baseline + 1)
    one, other = make_model(config, 0), make_model(config, 0)
    before = weights_of(one)
    for model, own in ((one, data), (other, unlabelled)):
        record = pretrain(model, own, ACROSS, first_epoch=0, epochs=2, seed=5)
        assert (
            record.exposure.observed == {f"volume{i}": float(data.observed[:, i].sum()) for i in range(3)}
            and record.exposure.visits == 0
        )
        assert record.behind == record.exposure
    assert are_identical(weights_of(one), weights_of(other))
    moved = {name for name, value in weights_of(one).items() if not torch.equal(value, before[name])}
    assert moved == {f"encoders.volume{i}.project.{kind}" for i in range(3) for kind in ("weight", "bias")}


def test_the_same_seed_gives_the_same_bits_and_another_does_not(visits: VisitData) -> None:
    models = [make_model(small_config(), 0) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        pretrain(model, visits, HOW, first_epoch=0, epochs=2, seed=seed)
    weights = [weights_of(model) for model in models]
    assert are_identical(weights[0], weights[1]) and not are_identical(weights[0], weights[2])


def test_visits_without_a_scan_train_nothing() -> None:
    data = small_visits(MIXED, 3, observed=torch.tensor([[False, False, False, True]] * 3))
    model = make_model(MIXED, 0)
    record = pretrain(model, data, HOW, first_epoch=0, epochs=1, seed=0)
    assert (record.visits, record.loss_sum) == (0, 0.0) and not any(record.exposure.observed.values())
    assert are_identical(weights_of(model), weights_of(make_model(MIXED, 0)))


def test_frozen_encoders_stay_as_pretraining_left_them_and_all_else_learns() -> None:
    data = small_visits(MIXED, 23)
    pretrained = make_model(MIXED, 0)
    set_means(pretrained, data)
    train = TRAIN.model_copy(update={"pretraining": HOW, "frozen_encoders": True})
    pretrain(pretrained, data, HOW, first_epoch=0, epochs=HOW.epochs, seed=train.seed)
    model = make_model(MIXED, 0)
    fit(model, data, data, train)
    held = {name for name in weights_of(model) if name.startswith("encoders.volume")}
    for name, value in weights_of(model).items():
        assert torch.equal(value, weights_of(pretrained)[name]) == (name in held), name
    assert all(p.requires_grad for name, p in model.named_parameters() if name.endswith("project.weight"))


def test_the_outcome_moves_pretrained_encoders_on_and_scans_may_be_more_than_train() -> None:
    data, more = small_visits(MIXED, 23), small_visits(MIXED, 41, seed=1)
    train = TRAIN.model_copy(update={"pretraining": HOW})
    models = [make_model(MIXED, 0) for _ in range(3)]
    fit(models[0], data, data, train)
    fit(models[1], data, data, train, scans=more)
    fit(models[2], data, data, TRAIN)
    weights = [weights_of(model)["encoders.volume0.project.weight"] for model in models]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_models_side_by_side_are_pretrained_each_with_its_seed_and_frozen_ones_are_refused() -> None:
    data = small_visits(small_config(), 23)
    train = TRAIN.model_copy(update={"pretraining": HOW, "epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0})
    stacked, alone = (
        [make_model(small_config(), 0) for _ in range(2)],
        [make_model(small_config(), 0) for _ in range(2)],
    )
    fit_stacked([Fit(model, data, data, seed) for model, seed in zip(stacked, (1, 2), strict=True)], train)
    for model, seed in zip(alone, (1, 2), strict=True):
        fit(model, data, data, train.model_copy(update={"seed": seed}))
    for one, other in zip(stacked, alone, strict=True):
        for name, value in weights_of(one).items():
            torch.testing.assert_close(value, weights_of(other)[name], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="frozen_encoders"):
        fit_stacked([Fit(stacked[0], data, data, 1)], train.model_copy(update={"frozen_encoders": True}))


def test_scans_are_those_that_train_and_those_without_an_outcome(visits: VisitData) -> None:
    """Nobody who validates or tests a model is learned from, and nobody without an outcome is in any part."""
    parts = ("train", "validation", "test")
    table = VisitTable(
        tuple(
            replace(v, split=parts[i % 3], delta_cdrsb=None if i % 5 == 0 else v.delta_cdrsb)  # type: ignore[arg-type]
            for i, v in enumerate(visits.visits)
        )
    )
    data = replace(visits, visits=table)
    numbers = {v.subject_id: i for i, v in enumerate(table)}
    assert [numbers[v.subject_id] for v in data.scans().visits] == [i for i in range(23) if i % 3 == 0 or i % 5 == 0]
    for k, part in enumerate(parts):
        found = [numbers[v.subject_id] for v in data.part(part).visits]  # type: ignore[arg-type]
        assert found == [i for i in range(23) if i % 3 == k and i % 5]


def test_a_loss_that_is_no_number_ends_the_pretraining_before_it_spoils_weights(visits: VisitData) -> None:
    model = make_model(small_config(), 0)
    with torch.no_grad():
        model.encoders["volume1"].project.bias[0] = float("inf")
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="pretraining"):
        pretrain(model, visits, HOW, first_epoch=0, epochs=1, seed=0)
    assert are_identical(weights_of(model), before)


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"encoder": {"kind": "sfcn"}}, {"pretraining": {}}, "reconstructs scans \\(pooled\\), not 'sfcn'"),
        ({"encoder": {"token_map": "slices"}}, {"pretraining": {}}, "token_map"),
        ({"modalities": [{"name": "a", "kind": "tabular", "columns": ["b"]}]}, {"pretraining": {}}, "has none"),
        ({"unimodal_heads": True}, {"pretraining": {}, "frozen_encoders": True}, "unimodal_heads"),
        ({}, {"frozen_encoders": True}, "random weights"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(model: dict[str, object], train: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"model": model, "train": train})


def test_digests_of_trainings_without_it_are_as_before() -> None:
    assert not {"pretraining", "frozen_encoders"} & set(TrainConfig().model_dump())
    assert "pretraining" in TrainConfig(pretraining=PretrainingConfig()).model_dump()


def test_training_goes_through_epochs_with_frozen_encoders_and_restores_them_when_it_fails(visits: VisitData) -> None:
    model = make_model(small_config(), 0)
    train = TRAIN.model_copy(update={"pretraining": HOW, "frozen_encoders": True})
    nothing = replace(visits, target=torch.full_like(visits.target, float("nan")))
    with pytest.raises(FloatingPointError):
        train_epochs(model, nothing, train, first_epoch=0, epochs=1, seed=0)
    assert model.encoders["volume0"].project.weight.requires_grad
