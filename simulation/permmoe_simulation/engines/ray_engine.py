"""The same apps on Ray, through Flower's own simulation: for many cores or a cluster."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from permmoe.errors import ConfigurationError

NODES_DEADLINE_SECONDS = 600.0
STARTS = 5
"""Ray gives its own processes half a minute to start, which a busy machine can need more than once."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Neither Ray nor Flower reports to anyone."""


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
) -> None:
    """Run a server app to its end, clients on `workers` processes of one CPU each (0: one a CPU of this machine).

    Raises ConfigurationError where Ray is not installed.
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

    _start_ray(workers or os.cpu_count() or 1)
    run_simulation(
        server_app=configured,
        client_app=cast(ClientApp, ConfiguredClientApp(client_app, tuple(map(dict, node_configs)))),
        num_supernodes=len(node_configs),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


def _start_ray(workers: int) -> None:
    """Start Ray, which Flower then finds running, and ends. What Ray raises at the last attempt is raised."""
    import ray

    path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
    for start in range(STARTS):
        try:
            ray.init(num_cpus=workers, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
            return
        except Exception as error:
            ray.shutdown()
            # Ray has no type of its own for this.
            if "timed out" not in str(error) or start + 1 == STARTS:
                raise
