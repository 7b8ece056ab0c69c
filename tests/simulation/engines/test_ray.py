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


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[ray\]'"):
        run_federation(server_app, client_app, [], {}, engine="ray")
