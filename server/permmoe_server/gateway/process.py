"""The gateway as a process of its own: `python -m permmoe_server.gateway.process FOLDER`.

It reads the server's key and never the authority's, so that an attacker who breaks into the one process that
strangers can reach cannot add a site.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from permmoe.runtime.command_line import installed_version
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.logs import log_to
from permmoe_server.coordination.local_socket import socket_address
from permmoe_server.gateway.door import make_gateway
from permmoe_server.gateway.refusals import Refusals
from permmoe_server.gateway.server import serve
from permmoe_server.provisioning.authority import load_certificate
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.members import Members
from permmoe_server.provisioning.papers import PapersDesk
from permmoe_server.settings import read_server

COUNT_SECONDS = 1.0


def main(folder: FederationFolder) -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = read_server(folder.settings)
    log_to(folder.logs / "gateway.log", settings.log_format)
    members = Members(folder.roster, load_certificate(folder.authority))
    desk = PapersDesk(folder, members, installed_version())
    gateway = make_gateway(socket_address(folder.superlink_socket), settings.limits, members.includes, desk.answer)
    threading.Thread(target=_write_counts, args=(gateway.state.refusals, folder.refusals), daemon=True).start()
    serve(gateway, folder.server, folder.server_key, folder.authority, settings.listen, settings.port)


def _write_counts(refusals: Refusals, path: Path) -> None:
    """Keep a file of the counts since this process started, for the coordinator's status."""
    written = None
    pause = threading.Event()
    while True:
        counts = refusals.by_rule()
        if counts != written:
            write_file(path, json.dumps(counts), mode=PUBLIC_MODE, is_durable=False)
            written = counts
        pause.wait(COUNT_SECONDS)


if __name__ == "__main__":
    main(FederationFolder(Path(sys.argv[1])))
