"""Which superlink a node belongs to: that of the region that the signed roster names for its site."""

from __future__ import annotations

from collections.abc import Mapping

from permmoe_server.protocol.federation import SiteDirectory
from permmoe_server.provisioning.roster_file import RosterFile


class NodeHomes:
    """The region of each node at the moment of the call, an empty text where it is the coordinator itself."""

    def __init__(self, directory: SiteDirectory, roster: RosterFile) -> None:
        self._directory, self._roster = directory, roster

    def __call__(self) -> Mapping[int, str]:
        """Raises RosterError, and OSError where the roster is gone."""
        regions = {site.name: site.region for site in self._roster.read().roster.sites}
        names = self._directory() or {}
        return {node: regions[site] for node, site in names.items() if site in regions}
