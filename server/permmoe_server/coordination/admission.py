"""Letting in the sites of the roster: their keys are registered with the superlink, and no others are."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from permmoe.federated.roster import Roster
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.coordination.superlink import NodeState, Superlink, key_bytes
from permmoe_server.provisioning.federation_folder import FederationFolder

LOG = logging.getLogger("permmoe.server")


@dataclass(frozen=True)
class KnownSite:
    """A site of the roster and what the superlink calls it."""

    name: str
    node_id: int
    is_online: bool


def admit(folder: FederationFolder, roster: Roster, superlink: Superlink) -> tuple[KnownSite, ...]:
    """Let in the keys of the roster that are not in yet; write for the server app which node is which site.

    A key that left the roster stays registered, since the superlink never takes a key a second time: a site that comes
    back with its key would be shut out for good. The gateway, which asks the roster at each request, keeps it out, and
    no study sends to a node that is not in the file. Raises SuperlinkAway.
    """
    known = {node.public_key: node for node in superlink.nodes()}
    sites = []
    for site in roster.sites:
        key = key_bytes(site.public_key)
        node = known.get(key)
        if node is None:
            node = NodeState(superlink.register(site.public_key, site.name), key, False)
            LOG.info("site %s may connect", site.name)
        sites.append(KnownSite(site.name, node.node_id, node.is_online))
    text = json.dumps({str(site.node_id): site.name for site in sites}).encode()
    if not folder.sites.exists() or folder.sites.read_bytes() != text:
        write_file(folder.sites, text, mode=PUBLIC_MODE)
    return tuple(sites)
