"""The plain reference computes what the model computes, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.data.batch import Batch
from permmoe.layers.experts import Experts
from permmoe.layers.routers import top_k_gates
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.losses import total_loss
from permmoe_benchmarks.library.reference import LoopedExperts, ReferencePerMMoE, corresponding, looped_pairs
from permmoe_benchmarks.measurements.training_step import use_plain_convolutions
from tests.support.model_batches import random_pattern

GRID = (24, 25, 29)


def config_of(**changes: object) -> ModelConfig:
    settings = {
        "modalities": tuple(Modality(name=f"volume{i}") for i in range(2)),
        "grid": VolumeGrid(shape=GRID), "encoder": EncoderConfig(kind="cnn", dropout=0.0), "tokens": 3, "width": 10,
        "heads": 2, "experts": 7, "top_k": 2, "expert_hidden": 13, "head_hidden": 11, "dropout": 0.0,
    }  # fmt: skip
    return ModelConfig.model_validate(settings | changes)


def batch_of(config: ModelConfig, n_visits: int) -> Batch:
    observed = random_pattern(n_visits, len(config.modalities))
    volumes = {name: torch.rand(int(n), 1, *GRID) for name, n in zip(config.names, observed.sum(0), strict=True) if n}
    return Batch(volumes, observed, torch.rand(n_visits) * 5, torch.randn(n_visits))


def fixed_noise(like: Tensor) -> Tensor:
    """Noise that depends on a token's values and not on the order of the tokens."""
    return torch.sin(3 * like.detach())


@pytest.mark.parametrize("changes", [{}, {"router_noise": False, "tokens": 1}, {"top_k": 7, "tokens": 1}])
def test_the_reference_equals_the_model_gradients_included(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = config_of(**changes)
    batch, model = batch_of(config, 4), PerMMoE(config).train()
    # Another layout in memory rounds otherwise, and where two voxels are nearly equal the other one wins the pooling.
    use_plain_convolutions(model)
    torch.nn.init.normal_(model.routers.noise_weight)
    monkeypatch.setattr(torch, "randn_like", fixed_noise)
    reference = ReferencePerMMoE.of(model).train()
    model_output, reference_output = model(batch), reference(batch)
    torch.testing.assert_close(reference_output.prediction, model_output.prediction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference_output.routing.gates, model_output.routing.gates, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reference_output.routing.load, model_output.routing.load, atol=1e-4, rtol=1e-5)
    for output in (model_output, reference_output):
        total_loss(output, batch, TrainConfig()).backward()  # type: ignore[no-untyped-call]
    gradients = [
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in m.named_parameters()}
        for m in (model, reference)
    ]
    pairs = list(corresponding(*gradients, config))
    assert sum(a.numel() for a, _ in pairs) == sum(p.numel() for p in model.parameters())
    assert sum(float(a.abs().sum()) > 0 for a, _ in pairs) > len(pairs) / 2
    for mine, other in pairs:
        torch.testing.assert_close(other, mine, atol=1e-5, rtol=1e-4)


def test_the_reference_equals_the_model_in_evaluation() -> None:
    torch.manual_seed(1)
    model = PerMMoE(config_of()).eval()
    batch = batch_of(model.config, 4)
    with torch.no_grad():
        expected, found = model(batch).prediction, ReferencePerMMoE.of(model).eval()(batch).prediction
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_looped_experts_equal_the_batched_ones_gradients_included() -> None:
    torch.manual_seed(2)
    config = config_of()
    batched, looped = Experts(config), LoopedExperts(config)
    for bias in (batched.b1, batched.b2):
        torch.nn.init.normal_(bias)
    with torch.no_grad():
        for name, value in batched.named_parameters():
            for own, other in looped_pairs(name, value, dict(looped.named_parameters()), "experts"):
                other.copy_(own)
    tokens, direction = torch.randn(31, config.width, requires_grad=True), torch.randn(31, config.width)
    gates = top_k_gates(torch.randn(1, 31, config.experts), 2)[0][0].requires_grad_()
    found = []
    for module in (batched, looped):
        output = module(tokens, gates)
        found.append((output, *torch.autograd.grad(output, (tokens, gates), direction)))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(slow, fast, atol=1e-5, rtol=1e-5)
