"""The same apps on Ray, through Flower's own simulation: for many cores or a cluster."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor
from typing import cast

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from permmoe.errors import ConfigurationError
from permmoe.runtime.devices import CPU

NODES_DEADLINE_SECONDS = 600.0
STARTS = 5
"""Ray gives its own processes half a minute to start, which a busy machine can need more than once."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Neither Ray nor Flower reports to anyone."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class ConfiguredClientApp:
    """A client app that gives each node its own configuration: Flower's simulation only numbers its nodes."""

    app: ClientApp
    node_configs: tuple[Mapping[str, str], ...]

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer as the node that the message is for."""
        context.node_config |= self.node_configs[int(context.node_config["partition-id"])]
        return self.app(message, context)


def run_on_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    *,
    workers: int = 0,
    device: str = CPU,
) -> None:
    """Run a server app to its end, clients on `workers` processes of one CPU each (0: one a CPU of this machine).

    With `device` cuda they share all GPUs, with cuda:N that one, as many clients on each. Raises ConfigurationError
    where Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError("the engine 'ray' needs Ray, which is not installed; run: pip install 'permmoe[ray]'")
    os.environ.update(QUIET)
    from flwr.simulation import run_simulation

    configured = ServerApp()

    @configured.main()
    def main(grid: Grid, context: Context) -> None:
        # Flower starts the server app before it has registered all nodes.
        deadline = time.monotonic() + NODES_DEADLINE_SECONDS
        while len(list(grid.get_node_ids())) < len(node_configs) and time.monotonic() < deadline:
            time.sleep(0.05)
        context.run_config = dict(run_config)
        server_app(grid, context)

    processes, gpus = workers or os.cpu_count() or 1, _gpus(device)
    with _showing(device):
        _start_ray(processes, gpus)
        run_simulation(
            server_app=configured,
            client_app=cast(ClientApp, ConfiguredClientApp(client_app, tuple(map(dict, node_configs)))),
            num_supernodes=len(node_configs),
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": gpu_share(processes, gpus)}},
        )


def gpu_share(processes: int, gpus: int) -> float:
    """The share of a GPU that each client is given, so that all processes have a client at the same time.

    Ray counts in ten-thousandths. 0 without a GPU.
    """
    if not gpus:
        return 0.0
    return floor(10_000 / ceil(processes / gpus)) / 10_000


def _gpus(device: str) -> int:
    """How many GPUs the clients share."""
    if not device.startswith("cuda"):
        return 0
    return 1 if ":" in device else torch.cuda.device_count()


@contextmanager
def _showing(device: str) -> Iterator[None]:
    """Let the processes that are started in the block see that GPU alone, where one is named."""
    if not device.startswith("cuda:"):
        yield
        return
    before = os.environ.get(VISIBLE)
    seen = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    os.environ[VISIBLE] = seen[int(device.removeprefix("cuda:"))]
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _start_ray(workers: int, gpus: int = 0) -> None:
    """Start Ray, which Flower then finds running, and ends. What Ray raises at the last attempt is raised."""
    import ray

    path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    for start in range(STARTS):
        try:
            ray.init(
                num_cpus=workers,
                num_gpus=gpus or None,
                include_dashboard=False,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
            return
        except Exception as error:
            ray.shutdown()
            # Ray has no type of its own for this.
            if "timed out" not in str(error) or start + 1 == STARTS:
                raise
