"""A training uses what the machine gives: tiles where the encoder gains from them, and freed memory again."""

from __future__ import annotations

import pytest
import torch

import permmoe.training.hardware as hardware
from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.training.hardware import autocast, keep_memory_of_steps
from permmoe.training.seeds import make_model
from tests.support.model_batches import small_config


def config_of(kind: str) -> ModelConfig:
    encoder = EncoderConfig.model_validate({"kind": kind, "cells": (2, 3, 5)})
    return small_config(2, encoder=encoder, grid=VolumeGrid(shape=(8, 9, 7)))


@pytest.mark.parametrize(
    ("kind", "has_tiles", "precision", "is_half"),
    [
        ("pooled", True, "auto", False),
        ("sfcn_lite", True, "auto", True),
        ("sfcn_lite", False, "auto", False),
        ("sfcn_lite", True, "fp32", False),
        ("pooled", False, "bf16", True),
    ],
)
def test_products_are_in_half_precision_where_it_is_faster_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, has_tiles: bool, precision: str, is_half: bool
) -> None:
    monkeypatch.setattr(hardware, "has_tiles", lambda: has_tiles)
    with autocast(make_model(config_of(kind), 0), TrainConfig.model_validate({"precision": precision})):
        assert torch.is_autocast_enabled("cpu") is is_half


@pytest.mark.parametrize(
    ("kind", "has_tiles", "without_limit"),
    [("pooled", True, False), ("sfcn_lite", True, True), ("sfcn_lite", False, False)],
)
def test_only_convolutional_training_on_amx_tiles_keeps_pages_without_limit(
    monkeypatch: pytest.MonkeyPatch, kind: str, has_tiles: bool, without_limit: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(hardware, "has_tiles", lambda: has_tiles)
    monkeypatch.setattr(hardware, "keep_freed_pages", lambda *, without_limit: calls.append(without_limit))
    keep_memory_of_steps(make_model(config_of(kind), 0))
    assert calls == [without_limit]
