"""Which sites are in the secure sums of a study: the coordinator remembers them as the sites do, and asks for no sum
that they would refuse."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from permmoe.federated.release_account import ReleaseAccount, admissible_sites
from permmoe.federated.secure.session import Session


def _forget(session: Session, sites: tuple[str, ...]) -> None:
    pass


@dataclass
class SummedSites:
    """The sums so far. Its account knows at least what each site's own does, so no site refuses what it admits."""

    account: ReleaseAccount = field(default_factory=ReleaseAccount)
    keep: Callable[[Session, tuple[str, ...]], None] = _forget
    """Writes a sum's sites to disk, before any site is asked to unmask it."""

    def choose(self, available: Collection[str], least: int) -> tuple[str, ...]:
        """The most of these sites that may be summed, so that sums differ by `least` sites or more, or by none."""
        return admissible_sites(self.account, available, least)

    def admits(self, sites: Collection[str], least: int) -> bool:
        """Whether these sites may be summed."""
        return self.account.admits(dict.fromkeys(sites, 1), least)

    def add(self, session: Session, sites: Collection[str]) -> None:
        """Remember a sum that is about to be unmasked."""
        names = tuple(sorted(sites))
        self.keep(session, names)
        self.account = self.account.after(dict.fromkeys(names, 1))
