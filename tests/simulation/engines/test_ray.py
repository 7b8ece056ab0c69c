"""The same apps on a real Ray."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from permmoe.errors import ConfigurationError
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.engine import Engine, run_federation
from permmoe_simulation.engines.ray_engine import VISIBLE, _start_ray, gpu_share
from tests.support.pretended_gpu import pretend_gpus
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


@pytest.mark.parametrize(("processes", "gpus"), [(1, 1), (3, 1), (7, 2), (4, 8), (49, 1), (2, 2)])
def test_all_processes_find_room_on_the_gpus_and_none_is_given_more_than_one(processes: int, gpus: int) -> None:
    share = gpu_share(processes, gpus)
    clients_on_one = int(1 / share)
    assert 0 < share <= 1 and clients_on_one * gpus >= processes and clients_on_one * share <= 1
    assert gpu_share(processes, 0) == 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an optional extra")
@pytest.mark.parametrize(
    ("device", "gpus", "share", "seen"),
    [("cpu", None, 0.0, None), ("cuda", 2, 0.5, None), ("cuda:1", 1, 0.25, "1")],
)
def test_clients_on_ray_are_given_their_share_of_the_gpus_that_were_named(
    device: str, gpus: int | None, share: float, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flwr.simulation
    import ray

    given: dict[str, object] = {}
    monkeypatch.delenv(VISIBLE, raising=False)
    pretend_gpus(monkeypatch, count=2)
    monkeypatch.setattr(ray, "init", lambda **settings: given.update(settings, seen=os.environ.get(VISIBLE)))
    monkeypatch.setattr(flwr.simulation, "run_simulation", lambda **settings: given.update(settings))
    run_federation(server_app, client_app, [], {}, engine="ray", workers=4, device=device)
    assert given["num_gpus"] == gpus and given["seen"] == seen and VISIBLE not in os.environ
    assert given["backend_config"] == {"client_resources": {"num_cpus": 1, "num_gpus": share}}


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[ray\]'"):
        run_federation(server_app, client_app, [], {}, engine="ray")
