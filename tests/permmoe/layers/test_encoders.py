"""Every encoder maps what the fixed stem returns to T tokens of width d, keeping location."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import permmoe.layers.convolutions as convolutions
from permmoe.config import EncoderConfig, ModelConfig, VolumeGrid
from permmoe.errors import ConfigurationError
from permmoe.layers.encoders import fixed_stem
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.modality import Modality
from tests.support.model_batches import small_config

KINDS = ("pooled", "cnn", "sfcn", "sfcn_lite")
T1 = Modality(name="t1")


def encoder(modality: Modality, config: ModelConfig) -> nn.Module:
    return INPUT_KINDS[modality.kind].encoder(modality, config)


def config_for(kind: str, grid: tuple[int, int, int], **changes: Any) -> ModelConfig:
    settings = EncoderConfig.model_validate({"kind": kind, "cells": (3, 5, 2)} | changes)
    return small_config(encoder=settings, grid=VolumeGrid(shape=grid))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(25, 31, 27), (37, 24, 29)])
def test_volumes_of_an_odd_grid_become_tokens(kind: str, grid: tuple[int, int, int]) -> None:
    config = config_for(kind, grid)
    tokens = encoder(T1, config)(fixed_stem(config)(torch.rand(2, 1, *grid)))
    assert tokens.shape == (2, 5, 7)
    assert tokens.isfinite().all()


def test_table_rows_become_tokens() -> None:
    config = small_config(n_tables=3)
    modality = config.modalities[-1]
    assert encoder(modality, config)(torch.randn(2, 3)).shape == (2, 5, 7)


@pytest.mark.parametrize("kind", ["cnn", "sfcn", "sfcn_lite"])
def test_the_stem_of_a_convolutional_encoder_changes_nothing(kind: str) -> None:
    volumes = torch.rand(2, 1, 7, 5, 3)
    assert torch.equal(fixed_stem(config_for(kind, (7, 5, 3)))(volumes), volumes)


def test_the_stem_of_the_pooled_encoder_averages_cells() -> None:
    volumes = torch.rand(2, 1, 9, 10, 4, dtype=torch.float64).half()
    pooled = fixed_stem(config_for("pooled", (9, 10, 4)))(volumes)
    expected = torch.stack([
        volumes[:, :, 3 * i : 3 * i + 3, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2].float().mean((2, 3, 4))
        for i in range(3) for j in range(5) for k in range(2)
    ], dim=-1).view(2, 1, 3, 5, 2)  # fmt: skip
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected)


def test_pooling_is_never_finer_than_the_voxels() -> None:
    config = config_for("pooled", (2, 11, 7))
    pooled = fixed_stem(config)(torch.rand(1, 1, 2, 11, 7))
    assert pooled.shape == (1, 1, 2, 5, 2)
    assert encoder(T1, config)(pooled).shape == (1, 5, 7)


@pytest.mark.parametrize(("kind", "axis"), [("cnn", 24), ("sfcn", 7), ("sfcn_lite", 7)])
def test_a_grid_one_voxel_too_small_on_any_axis_is_refused_in_plain_words(kind: str, axis: int) -> None:
    encoder(T1, config_for(kind, (axis, axis, axis)))
    for shape in ((axis - 1, 40, 40), (40, axis - 1, 40), (40, 40, axis - 1)):
        with pytest.raises(ConfigurationError, match=f"{axis} voxels or more"):
            encoder(T1, config_for(kind, shape))


@pytest.mark.parametrize(("grid", "stages"), [((91, 109, 91), 4), ((48, 56, 48), 3), ((7, 7, 7), 1)])
def test_sfcn_has_as_many_stages_as_leave_two_cells_on_each_axis(grid: tuple[int, int, int], stages: int) -> None:
    pools = [m for m in encoder(T1, config_for("sfcn_lite", grid)).modules() if isinstance(m, nn.MaxPool3d)]
    assert len(pools) == stages


def test_the_cnn_has_flex_moes_six_convolutions_and_no_norm() -> None:
    layers = list(encoder(T1, config_for("cnn", (48, 56, 48))).modules())
    convolutions = [m for m in layers if isinstance(m, nn.Conv3d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64, 128, 128]
    assert [m.kernel_size for m in layers if isinstance(m, nn.MaxPool3d)] == [2, 3, 4]


def test_the_cnn_computes_what_relu_in_front_of_the_pooling_would() -> None:
    model = encoder(T1, config_for("cnn", (24, 25, 26))).eval()
    volumes = torch.rand(2, 1, 24, 25, 26)
    x: Tensor = volumes
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    for stage, pool in enumerate((2, 3, 4)):
        for convolution in convolutions[2 * stage : 2 * stage + 2]:
            x = F.relu(convolution(x))
        x = F.max_pool3d(x, pool)
    projection = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    torch.testing.assert_close(model(volumes), projection(x.flatten(1)).view(2, 5, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_no_encoder_normalises_over_the_batch(kind: str) -> None:
    config = config_for(kind, (25, 31, 27))
    model = encoder(T1, config).eval()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert not list(model.buffers())
    inputs = fixed_stem(config)(torch.rand(3, 1, 25, 31, 27))
    torch.testing.assert_close(model(inputs)[1:2], model(inputs[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_moving_a_bright_spot_changes_the_tokens(kind: str) -> None:
    config = config_for(kind, (48, 48, 48))
    here, there = torch.zeros(1, 1, 48, 48, 48), torch.zeros(1, 1, 48, 48, 48)
    here[:, :, 6:12, 6:12, 6:12] = 5
    there[:, :, 30:36, 30:36, 30:36] = 5
    model, stem = encoder(T1, config).eval(), fixed_stem(config)
    assert (model(stem(here)) - model(stem(there))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["cnn", "sfcn", "sfcn_lite"])
def test_memory_format_does_not_change_the_result(kind: str) -> None:
    model = encoder(T1, config_for(kind, (25, 31, 27))).eval()
    volumes = torch.rand(2, 1, 25, 31, 27)
    plain = model(volumes)
    last: Any = torch.channels_last_3d
    torch.testing.assert_close(model.to(memory_format=last)(volumes), plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["cnn", "sfcn", "sfcn_lite"])
def test_channels_are_innermost_while_computing_and_nowhere_else(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against PyTorch's own convolution: the same start, results and gradients; stored as there, bit for bit."""
    config = config_for(kind, (25, 31, 27), dropout=0.0)
    volumes = torch.rand(2, 1, 25, 31, 27)

    def computed() -> tuple[nn.Module, Tensor, dict[str, Tensor], list[Tensor]]:
        torch.manual_seed(0)
        model = encoder(T1, config)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        maps: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, nn.Conv3d):
                module.register_forward_hook(lambda _, inputs, output: maps.append(output))
        tokens: Tensor = model(volumes)
        tokens.square().sum().backward()  # type: ignore[no-untyped-call]
        return model, tokens, start, maps

    found, tokens, start, maps = computed()
    monkeypatch.setattr(convolutions, "Convolution", nn.Conv3d)
    theirs, expected, expected_start, _ = computed()
    last: Any = torch.channels_last_3d
    # PyTorch computes a pointwise convolution of few voxels, the SFCN's last, in another way.
    assert all(m.is_contiguous(memory_format=last) for m in maps[:-1])
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)
    assert start.keys() == expected_start.keys()
    assert all(torch.equal(value, expected_start[name]) for name, value in start.items())
    for parameter, other in zip(found.parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert parameter.is_contiguous() and parameter.grad.is_contiguous(), "fused AdamW reads them as memory lies"
        # Where two voxels are nearly equal, rounding may let the other one win the pooling and take the gradient.
        assert (parameter.grad - other.grad).norm() <= 1e-2 * other.grad.norm()


def test_dropout_drops_its_share_and_keeps_the_expectation() -> None:
    config = config_for("pooled", (3, 5, 2), dropout=0.3)
    model = encoder(T1, config).train()
    inputs = torch.rand(1, 1, 3, 5, 2).expand(20_000, -1, -1, -1, -1)
    noisy = model(inputs)
    assert noisy.std(0).min() > 0
    torch.testing.assert_close(noisy.mean(0), model.eval()(inputs[:1])[0], atol=0.03, rtol=0)
