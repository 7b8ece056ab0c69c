"""The coordinator's hold on a region: its sites' keys are let in, and it has the newest papers.

A region may be away, or answer late. So each has a thread of its own, and the coordinator looks at what that saw last.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from permmoe.federated.membership import known_version
from permmoe.federated.roster import Roster, RosterSite
from permmoe_server.coordination.admission import KnownSite, admit
from permmoe_server.coordination.superlink import Superlink
from permmoe_server.coordination.upkeep import SOON_DAYS
from permmoe_server.gateway.rules import GATEWAY_RULES
from permmoe_server.provisioning.authority import load_certificate
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.region_papers import RegionNews, RegionPapers
from permmoe_server.provisioning.roster_file import RosterFile
from permmoe_server.studies.receipt_file import newest_receipts

LOG = logging.getLogger("permmoe.server")

LOOK_SECONDS = 1.0
HAND_OVER_SECONDS = 60.0
"""Between two hand-overs while the roster stays as it is."""


@dataclass(frozen=True)
class RegionState:
    """A region as it was seen last."""

    name: str
    is_there: bool = False
    sites: tuple[KnownSite, ...] = ()
    news: RegionNews = field(default_factory=RegionNews)


class RegionKeeper:
    """Looks after a region in a thread of its own."""

    def __init__(self, federation: FederationFolder, region: FederationFolder) -> None:
        self._federation, self._region = federation, region
        self._roster = RosterFile(federation.roster, load_certificate(federation.authority))
        self.state = RegionState(region.name)
        """Replaced whole, so that any thread may read it."""
        self._handed_over, self._hand_over_at = b"", 0.0
        self._warned_of: datetime | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"region {region.name}", daemon=True)

    def start(self) -> None:
        """Begin to look after the region."""
        self._thread.start()

    def stop(self) -> None:
        """Look after it no more; a request that is under way ends by itself."""
        self._stop.set()

    def _run(self) -> None:
        superlink: Superlink | None = None
        was_there = True
        while not self._stop.is_set():
            try:
                superlink = superlink or Superlink(self._region.superlink_socket)
                self.state = self._looked_after(superlink)
                if not was_there:
                    LOG.info("region %s answers", self._region.name)
            # A region may answer what nobody thought of: any of it is the region's trouble, and ends here.
            except Exception as error:
                if was_there:
                    LOG.warning("region %s does not answer (%s)", self._region.name, type(error).__name__)
                offline = tuple(replace(site, is_online=False) for site in self.state.sites)
                self.state = replace(self.state, is_there=False, sites=offline)
                # It may have been put back from a copy, or made anew.
                self._handed_over = b""
                if superlink:
                    superlink.close()
                    superlink = None
            was_there = self.state.is_there
            self._stop.wait(LOOK_SECONDS)
        if superlink:
            superlink.close()

    def _looked_after(self, superlink: Superlink) -> RegionState:
        listed = self._roster.read()
        own = sites_of(listed.roster, self._region.name)
        sites, news = admit(own, superlink), self.state.news
        if listed.signed != self._handed_over or monotonic() > self._hand_over_at:
            news = _believed(superlink.hand_over(self._papers(listed.signed, own)), own)
            self._handed_over, self._hand_over_at = listed.signed, monotonic() + HAND_OVER_SECONDS
            self._warn_of_its_end(news.certificate_end)
        return RegionState(self._region.name, True, sites, news)

    def _warn_of_its_end(self, end: datetime | None) -> None:
        if end is None or end == self._warned_of or end - datetime.now(UTC) > timedelta(days=SOON_DAYS):
            return
        self._warned_of = end
        LOG.warning(
            "the certificate of region %s ends on %s; run permmoe-server rotate-certificate --region %s, take "
            "server.key and server.crt there, and start it again",
            self._region.name,
            f"{end:%Y-%m-%d}",
            self._region.name,
        )

    def _papers(self, signed: bytes, sites: Sequence[RosterSite]) -> RegionPapers:
        names = {site.name for site in sites}
        files = {name: self._federation.certificate_of(name) for name in sorted(names)}
        receipts = newest_receipts(self._federation.studies)
        return RegionPapers(
            signed.decode(),
            {name: path.read_text() for name, path in files.items() if path.exists()},
            {name: receipt.line().decode() for name, receipt in receipts.items() if name in names},
        )


def known_sites(roster: Roster, own: Iterable[KnownSite], regions: Iterable[RegionState]) -> tuple[KnownSite, ...]:
    """Return all sites of the roster, as the superlink sees them that each connects to; `own`: those of the
    coordinator's. One that a region has not told of yet is known by its name."""
    seen = {("", site.name): site for site in own}
    seen |= {(region.name, site.name): site for region in regions for site in region.sites}
    return tuple(seen.get((site.region, site.name), KnownSite(site.name, None, False)) for site in roster.sites)


def sites_of(roster: Roster, region: str) -> tuple[RosterSite, ...]:
    """Return the sites that connect to a region, or to the coordinator itself where its name is empty."""
    return tuple(site for site in roster.sites if site.region == region)


class KeptRegions:
    """The coordinator's hold on all regions that there are."""

    def __init__(self, federation: FederationFolder) -> None:
        self._federation = federation
        self._keepers: dict[str, RegionKeeper] = {}

    @property
    def states(self) -> tuple[RegionState, ...]:
        """The regions as they were seen last, in the order of their names."""
        return tuple(keeper.state for _, keeper in sorted(self._keepers.items()))

    def tend(self) -> None:
        """Begin to look after regions that were added, and no longer after those that were removed."""
        found = {region.name: region for region in FederationFolder.all_in(self._federation.regions)}
        for name in self._keepers.keys() - found.keys():
            self._keepers.pop(name).stop()
            LOG.info("region %s was removed", name)
        for name in sorted(found.keys() - self._keepers.keys()):
            self._keepers[name] = RegionKeeper(self._federation, found[name])
            self._keepers[name].start()
            LOG.info("region %s is looked after", name)

    def stop(self) -> None:
        """Look after none any more."""
        for keeper in self._keepers.values():
            keeper.stop()


@contextmanager
def kept_regions(federation: FederationFolder) -> Iterator[KeptRegions]:
    """Yield the coordinator's hold on the regions of a federation, which ends with the block."""
    regions = KeptRegions(federation)
    try:
        yield regions
    finally:
        regions.stop()


def _believed(news: RegionNews, sites: Iterable[RosterSite]) -> RegionNews:
    """A region tells of its own sites, in words and numbers that there are."""
    return RegionNews(
        {site.name: known_version(news.versions[site.name]) for site in sites if site.name in news.versions},
        {rule: max(0, count) for rule, count in news.refusals.items() if rule in GATEWAY_RULES},
        news.certificate_end,
    )
