"""A region that runs: a gateway for its sites, and a superlink that the coordinator reaches at its socket."""

from __future__ import annotations

import logging
import threading

from permmoe.errors import ConfigurationError
from permmoe_server.coordination.ports import region_ports, require_free_ports
from permmoe_server.coordination.processes import kept_running
from permmoe_server.coordination.programs import clear, region_programs
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.settings import read_server

LOG = logging.getLogger("permmoe.server")

TICK_SECONDS = 1.0


def run_region(folder: FederationFolder, stop: threading.Event) -> None:
    """Keep a region's programs running until `stop` is set.

    A start that is refused changes nothing. Raises ConfigurationError for a folder or a port that cannot be used.
    """
    settings = read_server(folder.settings)
    with running(folder):
        if folder.authority_key.exists() or not folder.executor_secret.exists():
            raise ConfigurationError(
                f"{folder.path} is no region's folder, or not a whole one; name the folder that permmoe-server "
                "add-region wrote, or copy it again with all that is in it"
            )
        administration.require_secret_keys(folder)
        administration.server_identity(folder)
        require_free_ports(region_ports(settings))
        clear(folder)
        LOG.info("region %s: sites reach it at %s, port %d", folder.name, settings.host, settings.port)
        LOG.info("the coordinator reaches it at %s", folder.superlink_socket)
        with kept_running(region_programs(folder)) as tend:
            while not stop.is_set():
                tend()
                stop.wait(TICK_SECONDS)
