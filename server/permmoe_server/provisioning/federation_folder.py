"""The layout of a federation's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FederationFolder:
    """The paths in the folder of a federation or of a region; nothing here changes anything."""

    path: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate, which every site has."""
        return self.path / "ca.crt"

    @property
    def authority_key(self) -> Path:
        """The authority's private key, which can add sites."""
        return self.path / "ca.key"

    @property
    def server(self) -> Path:
        """The server's certificate."""
        return self.path / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.path / "server.key"

    @property
    def roster(self) -> Path:
        """The sites and their keys, signed."""
        return self.path / "roster.signed.json"

    @property
    def settings(self) -> Path:
        return self.path / "server.yaml"

    @property
    def kits(self) -> Path:
        return self.path / "kits"

    def kit_of(self, site: str) -> Path:
        """The kit of a site, which may hold its private key."""
        return self.kits / f"{site}.zip"

    def renewed_kit_of(self, site: str) -> Path:
        """The kit with a site's newest certificate and without a private key."""
        return self.kits / f"{site}.renewed.zip"

    @property
    def certificates(self) -> Path:
        """The newest certificate of each site, which the gateway hands out to that site alone."""
        return self.path / "certificates"

    def certificate_of(self, site: str) -> Path:
        """The newest certificate of a site."""
        return self.certificates / f"{site}.crt"

    @property
    def regions(self) -> Path:
        """The folder of each region, by its name."""
        return self.path / "regions"

    def region(self, name: str) -> FederationFolder:
        """The folder of a region. It is laid out as a federation's is, and holds no key that can add sites."""
        return FederationFolder(self.regions / name)

    @staticmethod
    def all_in(regions: Path) -> tuple[FederationFolder, ...]:
        """The folders of regions, in the order of their names."""
        return tuple(FederationFolder(path) for path in sorted(regions.glob("*/")))

    @property
    def name(self) -> str:
        """What the folder is called; a region's is the region's name."""
        return self.path.name

    @property
    def studies(self) -> Path:
        """A folder for each study: its plan, its rounds, its checkpoint, its model."""
        return self.path / "studies"

    @property
    def received(self) -> Path:
        """What a region was handed over of the studies: the newest receipt for each ledger, as in a study's folder."""
        return self.studies / "received"

    @property
    def models(self) -> Path:
        """The registry of models."""
        return self.path / "models"

    @property
    def state(self) -> Path:
        """Files of the running coordinator; they can be deleted while none runs."""
        return self.path / "state"

    @property
    def superlink_socket(self) -> Path:
        """Where the superlink listens for the coordinator's other programs."""
        return self.state / "superlink.sock"

    @property
    def superlink_database(self) -> Path:
        """The nodes and messages of the running coordinator."""
        return self.state / "superlink.db"

    @property
    def executor_secret(self) -> Path:
        """Without it nobody is told what to run. A coordinator makes another one at each start; a region's stays."""
        return self.path / "executor.secret"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def refusals(self) -> Path:
        """The number of requests that the gateway has refused since its start, by rule."""
        return self.state / "refusals.json"

    @property
    def versions(self) -> Path:
        """The version of this software that each site runs, as it says."""
        return self.state / "versions.json"

    @property
    def sites(self) -> Path:
        """Flower's node identifiers and the sites' names, for the server app."""
        return self.state / "sites.json"
