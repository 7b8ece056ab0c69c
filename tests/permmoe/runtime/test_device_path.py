"""What a GPU would be given to do, on a device that has shapes but no values: code that asks for a value fails."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from permmoe.config import ModelConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.model import PerMMoE
from permmoe.training.losses import total_loss
from permmoe.training.seeds import make_model
from tests.support.model_batches import random_batch, random_pattern, small_config

ELSEWHERE = torch.device("meta")
CONFIG = small_config(4, width=8, heads=2, expert_hidden=16, experts=5, top_k=2, unimodal_heads=True)


@pytest.fixture(autouse=True)
def _in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mixed precision as on a GPU; this device has none of its own.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == ELSEWHERE.type)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)


def on_the_device(config: ModelConfig) -> tuple[PerMMoE, Batch]:
    torch.manual_seed(1)
    return make_model(config, 0).to(ELSEWHERE), random_batch(config, random_pattern(7, 4)).to(ELSEWHERE)


def test_a_training_step_never_waits_for_values_of_the_device() -> None:
    model, batch = on_the_device(CONFIG)
    assert batch.observed.device.type == "cpu" and not batch.observed.all()
    loss = total_loss(model.train()(batch), batch, TrainConfig())
    loss.backward()
    assert loss.device == ELSEWHERE
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_prediction_does_not_either() -> None:
    model, batch = on_the_device(CONFIG)
    with torch.no_grad():
        assert model.eval()(batch).prediction.shape == (7,)


def test_experts_whose_rows_a_gpu_cannot_take_are_padded_and_do_wait() -> None:
    model, batch = on_the_device(small_config(4, width=6, heads=2, expert_hidden=10, experts=5, top_k=2))
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(batch)
