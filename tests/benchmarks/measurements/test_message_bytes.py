"""What a goal of bytes is made of."""

from __future__ import annotations

import pytest

from permmoe.config import ModelConfig
from permmoe.federated.modules import ModuleLayout, reachable_modules
from permmoe.training.seeds import make_model
from permmoe_benchmarks.goals import REACHED


def test_the_goal_of_bytes_is_what_t1_and_flair_reach_of_the_default_model() -> None:
    config = ModelConfig()
    model = make_model(config, 0)
    sizes = {name: len(own) for name, own in ModuleLayout.of(model).flatten_all(model.state_dict()).items()}
    reached = sum(sizes[name] for name in reachable_modules(config, config.names[:2]) if name in sizes)
    assert 100 * reached / sum(sizes.values()) == pytest.approx(REACHED, abs=0.05)
