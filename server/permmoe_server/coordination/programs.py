"""The three programs behind a coordinator: Flower's superlink, the executor of the server app, and the gateway."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from permmoe.runtime.files import UNFINISHED_PREFIX, write_file
from permmoe_server.coordination.processes import Program
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.settings import ServerConfig

SUPERLINK, EXECUTOR, GATEWAY = "superlink", "executor", "gateway"
OLD_LOG_BYTES = 10_000_000


def prepare(folder: FederationFolder) -> None:
    """Clear what an earlier coordinator left, since its nodes and messages mean nothing to this one.

    Large logs are put aside. What a study needs to go on is in its own folder and stays.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    folder.state.chmod(0o700)
    for name in (_database(folder).name, _database(folder).name + "-wal", _database(folder).name + "-shm"):
        (folder.state / name).unlink(missing_ok=True)
    # A process that was killed while it wrote a file leaves an unfinished one.
    for stale in (folder.refusals, folder.sites, *folder.state.glob(f"{UNFINISHED_PREFIX}*")):
        stale.unlink(missing_ok=True)
    # A process without this secret cannot act as executor towards the superlink.
    write_file(_secret(folder), secrets.token_bytes(32))
    for log in folder.logs.glob("*.log"):
        if log.stat().st_size > OLD_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


def programs(folder: FederationFolder, settings: ServerConfig) -> tuple[Program, ...]:
    """Return the programs to keep running, in the order of starting."""
    scripts = Path(sys.executable).parent
    # The executor looks for its own programs on the path, which a systemd unit or a bare call may lack.
    environment = {"FLWR_HOME": str(folder.state / "flower"), "PATH": f"{scripts}:/usr/local/bin:/usr/bin:/bin"}
    superlink = [
        str(scripts / "flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(settings.superlink_port)),
        *("--ssl-ca-certfile", str(folder.authority)),
        *("--ssl-certfile", str(folder.server), "--ssl-keyfile", str(folder.server_key)),
        *("--isolation", "process", "--superexec-auth-secret-file", str(_secret(folder))),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(_database(folder))),
    ]
    executor = [
        str(scripts / "flower-superexec"),
        *("--runtime-api-address", f"127.0.0.1:{settings.superlink_port}"),
        *("--root-certificates", str(folder.authority)),
        *("--superexec-auth-secret-file", str(_secret(folder))),
    ]
    gateway = [sys.executable, "-m", "permmoe_server.gateway.process", str(folder.path)]
    return (
        Program(SUPERLINK, superlink, folder.logs / "superlink.log", environment),
        Program(EXECUTOR, executor, folder.logs / "executor.log", environment),
        Program(GATEWAY, gateway, folder.logs / "gateway-process.log", environment),
    )


def _database(folder: FederationFolder) -> Path:
    return folder.state / "superlink.db"


def _secret(folder: FederationFolder) -> Path:
    return folder.state / "executor.secret"
