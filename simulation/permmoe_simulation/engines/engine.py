"""Where a federation's clients are simulated: in this process, or on Ray. The apps are the same, as are the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from permmoe.errors import ConfigurationError
from permmoe.runtime.devices import CPU
from permmoe_simulation.engines.client_workers import ClientWorkers
from permmoe_simulation.engines.grid import Attendance, InProcessGrid, run_in_process
from permmoe_simulation.engines.pace import PacedGrid, PacedTime
from permmoe_simulation.engines.ray_cluster import join

Engine = Literal["inprocess", "ray"]


def run_federation(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    *,
    engine: Engine = "inprocess",
    attendance: Attendance | None = None,
    paced: PacedTime | None = None,
    device: str = CPU,
) -> None:
    """Run a server app to its end with one client a node configuration.

    With `paced` sites take simulated time; the server app has to go by its clock. On Ray, `device` is where the node
    configurations say that clients train, and there has to be a cluster (`ray_cluster`). Raises ConfigurationError, and
    WorkerLost where Ray lost a client's process too often.
    """
    if engine == "ray" and paced:
        raise ConfigurationError("sites that are slow need the engine 'inprocess'; Ray's take the time that they take")
    run_in_process(
        server_app,
        client_app,
        node_configs,
        run_config,
        workers=ray_workers(device) if engine == "ray" else None,
        attendance=attendance,
        make_grid=partial(PacedGrid, paced=paced) if paced else InProcessGrid,
    )


def ray_workers(device: str = CPU) -> ClientWorkers:
    """The clients' workers on the cluster that this process has, or joins. Raises ConfigurationError."""
    join()
    # Ray is an extra, and takes a second to import.
    from permmoe_simulation.engines.ray_workers import RayWorkers

    return RayWorkers(device)
