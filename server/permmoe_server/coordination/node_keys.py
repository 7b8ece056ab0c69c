"""Which key the replies of a node are signed with: the one that the signed roster has for its site."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from permmoe_server.protocol.federation import SiteDirectory
from permmoe_server.provisioning.roster_file import RosterFile


class NodeKeys:
    """The key of each node's site at the moment of the call, without nodes whose site is not in the roster."""

    def __init__(self, directory: SiteDirectory, roster: RosterFile) -> None:
        self._directory, self._roster = directory, roster

    def __call__(self) -> Mapping[int, ec.EllipticCurvePublicKey]:
        """Raises RosterError, and OSError where the roster is gone."""
        keys, names = self._roster.read().keys, self._directory() or {}
        return {node: keys[site] for node, site in names.items() if site in keys}
