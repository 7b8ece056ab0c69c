"""What the programs behind the coordinator log, on their standard error."""

from __future__ import annotations

import logging

from permmoe.runtime.logs import log_to
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.settings import read_server

QUIET_LOGGERS = ("flwr", "httpx")
"""They write a line for each request, several a second; of them only warnings are kept."""


def log_process(folder: FederationFolder) -> None:
    """Log as the coordinator's settings say."""
    log_to(None, read_server(folder.settings).log_format, quiet=QUIET_LOGGERS)
    # Flower's own handler would write each line a second time, in colours.
    logging.getLogger("flwr").handlers.clear()
