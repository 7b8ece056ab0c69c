"""The Ray that clients run on: a cluster that RAY_ADDRESS names, as everywhere in Ray, or one started on this machine.

Whoever runs a study holds it for as long as the study takes. The processes of the study's cells join it, and stay
connected, so that the next cell finds processes that have imported everything.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from permmoe.errors import ConfigurationError
from permmoe.runtime.devices import CPU
from permmoe.runtime.provenance import versions

ADDRESS, VISIBLE = "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_worker_niceness": "0"}
"""Ray reports to nobody, and does not announce what a later version of it will do. The processes of clients are no less
urgent than others, as in one process; Ray's own default lets them wait for whatever else the machine does."""
STARTS = 5
"""Ray gives its own processes half a minute to start, which a busy machine can need more than once."""
REACH_SECONDS = 10.0
"""How long a cluster's head may take to accept a connection."""
NODE_SECONDS = 120.0
"""How long a node may take to say what it has; a process of it imports everything first."""
ALIKE = ("permmoe", "torch", "flwr", "numpy")
"""Packages whose version changes what a client answers."""


@contextmanager
def ray_cluster(workers: int, device: str = CPU, folders: Sequence[Path] = ()) -> Iterator[str]:
    """Be connected to Ray for the block, and let processes that are started in it know the address, which is yielded.

    Where RAY_ADDRESS names a cluster, each of its nodes has to have our versions and to see `folders`, which clients
    read and write. Elsewhere Ray is started with `workers` CPUs, and ends with the block; with `device` cuda it has
    all GPUs of this machine, with cuda:N that one. Raises ConfigurationError.
    """
    _require_ray()
    import ray

    if os.environ.get(ADDRESS):
        join()
        for node in ray.nodes():
            if node["Alive"]:
                _refuse_unlike(node, folders)
        yield os.environ[ADDRESS]
        return
    with _showing(device):
        _start(workers, _gpus(device))
    address = ray.get_runtime_context().gcs_address
    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        stack.enter_context(_environment(ADDRESS, address))
        yield address


def join() -> None:
    """Connect this process to the cluster that RAY_ADDRESS names, unless it is. Raises ConfigurationError."""
    _require_ray()
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS)
    if not address:
        raise ConfigurationError(f"there is no Ray cluster; start one with `ray start --head` and set {ADDRESS}")
    host, _, port = address.rpartition(":")
    try:
        # Ray itself asks an address where nobody is for minutes.
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
        _init(address=address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"the Ray cluster at {ADDRESS}={address} cannot be used ({reason}); {ADDRESS} has to be the HOST:PORT that "
            f"`ray start --head` shows, of the same Ray as here ({ray.__version__}), or unset"
        ) from None


def _require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError("the engine 'ray' needs Ray, which is not installed; run: pip install 'permmoe[ray]'")
    os.environ.update(SETTINGS)


def _start(workers: int, gpus: int) -> None:
    """Start Ray on this machine. What Ray raises at the last attempt is raised."""
    import ray

    for start in range(STARTS):
        try:
            _init(address="local", num_cpus=workers, num_gpus=gpus, include_dashboard=False)
            return
        except Exception as error:
            ray.shutdown()
            # Ray has no type of its own for this.
            if "timed out" not in str(error) or start + 1 == STARTS:
                raise


def _init(**settings: Any) -> None:
    import ray

    # Clients print nothing that a study needs: what they log is in Ray's own folder.
    ray.init(log_to_driver=False, logging_level="ERROR", **settings)


def _refuse_unlike(node: dict[str, Any], folders: Sequence[Path]) -> None:
    """Raise ConfigurationError for a node on which a client would not do what it does here."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = f"node {node['NodeManagerAddress']} of the Ray cluster"
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    probe = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_seen)
    with ExitStack() as stack:
        marks = [stack.enter_context(_mark(folder)) for folder in folders]
        try:
            found, missing = ray.get(probe.remote([str(mark) for mark in marks]), timeout=NODE_SECONDS)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigurationError(
                f"{where} cannot run a client ({reason}); install permmoe there as here, or stop the node"
            ) from None
    complaint = complaint_of(where, found, versions(), [str(Path(mark).parent) for mark in missing])
    if complaint:
        raise ConfigurationError(complaint)


def complaint_of(node: str, found: Mapping[str, str], ours: Mapping[str, str], missing: Sequence[str]) -> str | None:
    """What is wrong with a node that has these versions and does not see these folders; None where nothing is."""
    for name in ALIKE:
        if found.get(name) != ours.get(name):
            there = found.get(name, "not at all")
            return f"{node} has {name} {there}, this machine {ours.get(name)}; install the same there"
    if missing:
        return (
            f"{node} does not see {missing[0]}; a study on a cluster needs its results, --shared and its data at the "
            "same path on every node, such as on a shared file system"
        )
    return None


def _seen(marks: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What a node has: versions, and which of these files it does not see."""
    return dict(versions()), [mark for mark in marks if not Path(mark).exists()]


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A file in a folder for the block, by which another machine knows that it sees the same one."""
    mark = folder.resolve() / f".seen-{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink()


def _gpus(device: str) -> int:
    """How many GPUs of this machine clients share."""
    if not device.startswith("cuda"):
        return 0
    return 1 if ":" in device else torch.cuda.device_count()


@contextmanager
def _showing(device: str) -> Iterator[None]:
    """Let processes that are started in the block see that GPU alone, where one is named."""
    if not device.startswith("cuda:"):
        yield
        return
    before = os.environ.get(VISIBLE)
    seen = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    with _environment(VISIBLE, seen[int(device.removeprefix("cuda:"))]):
        yield


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
