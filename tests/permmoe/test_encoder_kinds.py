"""An encoder is declared once: configuration, training, evaluation and privacy ask its declaration."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid, parse_config
from permmoe.encoder_kinds import ENCODERS, EncoderKind
from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import combination_predictions
from permmoe.layers.encoders import fixed_stem
from permmoe.training.dense_pass import DensePerMMoE, dense_inputs
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config
from tests.support.small_visits import small_visits


def halved(config: ModelConfig) -> tuple[nn.Module, int]:
    """Voxels averaged two by two: an encoder that the project does not have."""
    return nn.AvgPool3d(2), prod(size // 2 for size in config.grid.shape)


HALVED = EncoderKind(
    "means of 8 voxels",
    f"{__name__}:halved",
    "voxels",
    visits_at_once=3,
    gains_from_tiles=False,
    gains_from_gpu=False,
)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_declared_encoder_can_be_built(name: str) -> None:
    config = small_config(encoder=EncoderConfig(kind=name), grid=VolumeGrid(shape=(25, 31, 27)))
    features, n_features = ENCODERS[name].build(config)
    shape = features(fixed_stem(config)(torch.rand(2, 1, 25, 31, 27))).flatten(1).shape
    assert shape == (2, n_features)


def test_a_new_encoder_is_one_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "halved", HALVED)
    config = small_config(
        2, 1, encoder=EncoderConfig(kind="halved", dropout=0.0), grid=VolumeGrid(shape=(7, 5, 3)), router_noise=False
    )
    assert ModelConfig.model_validate_json(config.canonical_json()) == config
    model, visits = make_model(config, 0), small_visits(config, 11)
    before = combination_predictions(model, visits)
    train_epochs(model, visits, TrainConfig(batch_size=5), first_epoch=0, epochs=1, seed=0)
    after = combination_predictions(model, visits)
    assert np.array_equal(np.isnan(before), np.isnan(after)) and not np.array_equal(before, after, equal_nan=True)
    batch = random_batch(config, random_pattern(5, 3))
    dense, inputs = DensePerMMoE(model), dense_inputs(batch, config)
    torch.testing.assert_close(dense(inputs, batch.observed, batch.baseline).prediction, model(batch).prediction)


def test_an_unknown_encoder_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"encoder\.kind: unknown encoder 'sfcm'; did you mean 'sfcn'"):
        parse_config({"encoder": {"kind": "sfcm"}}, ModelConfig, "here")
