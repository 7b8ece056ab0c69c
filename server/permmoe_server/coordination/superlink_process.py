"""Flower's superlink as a process of its own: `python -m permmoe_server.coordination.superlink_process FOLDER`.

It is the application that `flower-superlink` serves, behind our door (permmoe_server.coordination.superlink_door) and
at a socket that no other user can reach (permmoe_server.coordination.local_socket) instead of a port.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from permmoe_server.coordination.local_socket import BACKLOG, KEPT_SECONDS, listen
from permmoe_server.coordination.message_desk import MessageDesk
from permmoe_server.coordination.process_log import log_process
from permmoe_server.coordination.region_desk import RegionDesk
from permmoe_server.coordination.superlink_door import SuperlinkDoor
from permmoe_server.provisioning.federation_folder import FederationFolder


def main(folder: FederationFolder) -> None:
    """Serve until SIGTERM or SIGINT."""
    log_process(folder)
    app = create_app(_settings(folder), SuperLinkLifespan)
    door = SuperlinkDoor(app, MessageDesk(app).answer, RegionDesk(folder).take)
    config = uvicorn.Config(
        door,
        loop="asyncio",
        ws="none",
        lifespan="on",
        # The gateway's log names what is refused. A line for each request of each site would fill the disk.
        access_log=False,
        log_config=None,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEPT_SECONDS,
        # Sites that wait for a message keep requests open for as long as they are let.
        timeout_graceful_shutdown=1,
    )
    with listen(folder.superlink_socket) as listener:
        uvicorn.Server(config).run(sockets=[listener])


def _settings(folder: FederationFolder) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="",
        port=0,
        # There is no network between this process and those that it serves.
        insecure=True,
        certificates=None,
        superexec_auth_secret=load_superexec_auth_secret(secret_file=str(folder.executor_secret)),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(folder.superlink_database),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


if __name__ == "__main__":
    main(FederationFolder(Path(sys.argv[1])))
