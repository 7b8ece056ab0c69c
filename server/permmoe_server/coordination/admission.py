"""Letting in the sites of the roster: their keys are registered with the superlink, and no others are."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from permmoe.federated.roster import RosterSite
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.coordination.superlink import NodeState, Superlink, key_bytes

LOG = logging.getLogger("permmoe.server")


@dataclass(frozen=True)
class KnownSite:
    """A site of the roster and what its superlink calls it."""

    name: str
    node_id: int | None
    """None before its superlink has said."""
    is_online: bool


def admit(sites: Iterable[RosterSite], superlink: Superlink) -> tuple[KnownSite, ...]:
    """Let in the keys of sites that a superlink does not know yet; return what it calls each of them.

    A key that left the roster stays registered, since the superlink never takes a key a second time: a site that comes
    back with its key would be shut out for good. The gateway, which asks the roster at each request, keeps it out, and
    no study sends to a node that is not in the directory. Raises SuperlinkAway.
    """
    known = {node.public_key: node for node in superlink.nodes()}
    admitted = []
    for site in sites:
        key = key_bytes(site.public_key)
        node = known.get(key)
        if node is None:
            node = NodeState(superlink.register(site.public_key, site.name), key, False)
            LOG.info("site %s may connect", site.name)
        admitted.append(KnownSite(site.name, node.node_id, node.is_online))
    return tuple(admitted)


def write_directory(path: Path, sites: Iterable[KnownSite]) -> None:
    """Write for the server app which node is which site; of two sites with one node the first has it."""
    directory: dict[str, str] = {}
    for site in sites:
        # "A node is one site": a region that gives its own the number of another's displaces nobody.
        if site.node_id is not None:
            directory.setdefault(str(site.node_id), site.name)
    text = json.dumps(directory).encode()
    if not path.exists() or path.read_bytes() != text:
        write_file(path, text, mode=PUBLIC_MODE)
