"""Where a federation is simulated: in this process, or on Ray. The apps are the same, and so are the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from permmoe.errors import ConfigurationError
from permmoe.runtime.devices import CPU
from permmoe_simulation.engines.grid import Attendance, InProcessGrid, run_in_process
from permmoe_simulation.engines.pace import PacedGrid, PacedTime
from permmoe_simulation.engines.ray_engine import run_on_ray

Engine = Literal["inprocess", "ray"]


def run_federation(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, str]],
    run_config: Mapping[str, str],
    *,
    engine: Engine = "inprocess",
    workers: int = 0,
    attendance: Attendance | None = None,
    paced: PacedTime | None = None,
    device: str = CPU,
) -> None:
    """Run a server app to its end with one client a node configuration.

    With `paced` sites take simulated time; the server app has to go by its clock.
    `workers`: processes that clients are spread over; 0 means this process itself, or on Ray one a CPU. `device` is
    where the node configurations say that clients train: Ray has to give each of them its share of a GPU.
    """
    match engine:
        case "inprocess":
            run_in_process(
                server_app,
                client_app,
                node_configs,
                run_config,
                workers=workers,
                attendance=attendance,
                make_grid=partial(PacedGrid, paced=paced) if paced else InProcessGrid,
            )
        case "ray" if attendance or paced:
            raise ConfigurationError(
                "sites that join or leave, or are slow, need the engine 'inprocess'; Ray's nodes are always there, and "
                "take the time that they take"
            )
        case "ray":
            run_on_ray(server_app, client_app, node_configs, run_config, workers=workers, device=device)
