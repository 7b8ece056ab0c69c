"""The profile of a step covers the whole step, and leaves no hook behind."""

from __future__ import annotations

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits
from permmoe_benchmarks.measurements.time_profile import MOST_OPERATIONS, step_profile

PARTS = {
    "gathering the batch", "encoders, forward", "missing bank, forward", "attention, forward", "routers, forward",
    "experts, forward", "head, forward", "placing tokens, rest of the forward pass", "losses", "backward",
    "counting exposure, clipping the gradient", "optimiser",
}  # fmt: skip


def test_a_step_is_divided_into_its_parts_and_no_hook_stays() -> None:
    config = ModelConfig(grid=VolumeGrid(shape=(11, 13, 17)), encoder=EncoderConfig(kind="pooled", cells=(2, 3, 5)))
    model = make_model(config, 0)
    data = half_missing_visits(config, 7)
    found = step_profile(data, model, TrainConfig(batch_size=7), steps=3, profiled=1)
    assert found["visits"] == 7
    assert set(found["parts_ms"]) == PARTS | {"total", "rest"}
    assert all(found["parts_ms"][part] > 0 for part in PARTS)
    assert len(found["operations_ms"]) == MOST_OPERATIONS
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
