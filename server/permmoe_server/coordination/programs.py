"""The programs behind a coordinator: Flower's superlink, the executor of the server app, and the gateway.

A region has the first and the last of them.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from permmoe.runtime.files import UNFINISHED_PREFIX, write_file
from permmoe_server.coordination.processes import Program
from permmoe_server.provisioning.federation_folder import FederationFolder

SUPERLINK, EXECUTOR, GATEWAY = "superlink", "executor", "gateway"
OLD_LOG_BYTES = 10_000_000


def prepare(folder: FederationFolder) -> None:
    """Clear what an earlier coordinator left, and make another secret."""
    clear(folder)
    # A process without this secret cannot act as executor towards the superlink.
    write_file(folder.executor_secret, secrets.token_bytes(32))


def clear(folder: FederationFolder) -> None:
    """Clear what earlier programs left, since their nodes and messages mean nothing to new ones.

    Large logs are put aside. What a study needs to go on is in its own folder and stays.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    folder.state.chmod(0o700)
    for ending in ("", "-wal", "-shm"):
        Path(f"{folder.superlink_database}{ending}").unlink(missing_ok=True)
    # A process that was killed while it wrote a file leaves an unfinished one.
    for stale in (folder.refusals, folder.sites, *folder.state.glob(f"{UNFINISHED_PREFIX}*")):
        stale.unlink(missing_ok=True)
    for log in folder.logs.glob("*.log"):
        if log.stat().st_size > OLD_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def programs(folder: FederationFolder) -> tuple[Program, ...]:
    """Return a coordinator's programs to keep running, in the order of starting."""
    superlink, gateway = region_programs(folder)
    return superlink, _program(folder, EXECUTOR, "coordination.executor_process", "executor.log"), gateway


def region_programs(folder: FederationFolder) -> tuple[Program, Program]:
    """Return a region's programs to keep running, in the order of starting."""
    return (
        _program(folder, SUPERLINK, "coordination.superlink_process", "superlink.log"),
        _program(folder, GATEWAY, "gateway.process", "gateway-process.log"),
    )


def _program(folder: FederationFolder, name: str, module: str, log: str) -> Program:
    command = [sys.executable, "-m", f"permmoe_server.{module}", str(folder.path)]
    return Program(name, command, folder.logs / log, {"FLWR_HOME": str(folder.state / "flower")})
