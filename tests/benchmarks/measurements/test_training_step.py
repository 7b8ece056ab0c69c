"""Variants of the step train the same model on the same visits."""

from __future__ import annotations

import torch
from torch import nn

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.layers.convolutions import Convolution
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits
from permmoe_benchmarks.measurements.data_loading import VisitsReadFirst
from permmoe_benchmarks.measurements.training_step import WatchedVisits, use_plain_convolutions

TABLE = ModelConfig(grid=VolumeGrid(shape=(11, 13, 17)), encoder=EncoderConfig(kind="pooled", cells=(2, 3, 5)))
TRAIN = TrainConfig(batch_size=3)


def trained(data: VisitData) -> dict[str, torch.Tensor]:
    model = make_model(TABLE, 0)
    train_epochs(model, data, TRAIN, first_epoch=0, epochs=2, seed=0)
    return model.state_dict()


def test_plain_convolutions_share_the_weights_and_compute_the_same() -> None:
    config = ModelConfig(grid=VolumeGrid(shape=(24, 25, 29)), encoder=EncoderConfig(kind="cnn"))
    model = PerMMoE(config).eval()
    batch = half_missing_visits(config, 3).batch(torch.arange(3))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        expected = model(batch).prediction
        use_plain_convolutions(model)
        found = model(batch).prediction
    assert not any(isinstance(module, Convolution) for module in model.modules())
    assert sum(type(module) is nn.Conv3d for module in model.modules()) == 4 * 6
    assert all(value is parameters[name] for name, value in model.named_parameters())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_watched_visits_are_the_same_visits_and_are_seen_once_an_epoch() -> None:
    data = half_missing_visits(TABLE, 7)
    seen: list[None] = []
    watched = WatchedVisits(**vars(data), on_epoch=lambda: seen.append(None))
    expected, found = trained(data), trained(watched)
    assert len(seen) == 2
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_visits_that_are_read_first_are_the_same_visits() -> None:
    data = half_missing_visits(TABLE, 7)
    expected, found = trained(data), trained(VisitsReadFirst(**vars(data)))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
