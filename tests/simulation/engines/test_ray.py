"""The same apps on a real Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from permmoe.errors import ConfigurationError
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.engine import Engine, run_federation
from permmoe_simulation.engines.ray_engine import _start_ray
from tests.support.tiny_federation import node_configs, tiny_plan


def federated(folder: Path, engine: Engine) -> dict[str, torch.Tensor]:
    folder.mkdir()
    (folder / "plan.json").write_text(tiny_plan(rounds=2).canonical_json())
    run_config = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_federation(server_app, client_app, node_configs(folder), run_config, engine=engine)
    return dict(load_checkpoint(folder / "out" / "model")[0])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an optional extra")
def test_ray_gives_the_same_weights_as_this_process_bit_by_bit(tmp_path: Path) -> None:
    here, there = federated(tmp_path / "here", "inprocess"), federated(tmp_path / "there", "ray")
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an optional extra")
def test_ray_that_is_slow_to_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    starts: list[int] = []

    def slow(**_: object) -> None:
        starts.append(len(starts))
        if len(starts) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    _start_ray(1)
    assert len(starts) == 3


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an optional extra")
def test_ray_that_cannot_start_for_another_reason_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def broken(**_: object) -> None:
        raise ValueError("no such setting")

    monkeypatch.setattr(ray, "init", broken)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ValueError, match="no such setting"):
        _start_ray(1)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[ray\]'"):
        run_federation(server_app, client_app, [], {}, engine="ray")
