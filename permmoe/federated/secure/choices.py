"""Who keeps shares of whose secrets in a session, as all sites are told and sign."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from permmoe.federated.secure.session import Participants, SecureSumRefused


def choose_keepers(participants: Participants, site: str) -> tuple[str, ...]:
    """The keepers of a site in the order of their names: itself, and others that the machine's own chance picks."""
    others = [name for name in participants.names if name != site]
    chosen = secrets.SystemRandom().sample(others, participants.neighbourhood.keepers - 1)
    return tuple(sorted([*chosen, site]))


@dataclass(frozen=True, eq=False)
class Choices:
    """The keepers that each site which passed stage 2 chose."""

    participants: Participants
    table: Bool[np.ndarray, "site keeper"]
    """Sites in the order of the participants; of one that did not share, no keepers."""

    @classmethod
    def of(cls, participants: Participants, keepers: Mapping[str, Iterable[str]]) -> Choices:
        """The choices by name. Raises SecureSumRefused unless each site chose as many as it must, itself among them."""
        numbers, n = participants.numbers, len(participants.sites)
        table = np.zeros((n, n), np.bool_)
        for site, chosen in keepers.items():
            names = [site, *chosen]
            if not numbers.keys() >= set(names):
                raise SecureSumRefused("a keeper, or the site that chose it, is not a participant")
            table[numbers[site] - 1, [numbers[name] - 1 for name in names]] = True
        return cls(participants, table)._checked()

    @classmethod
    def unpack(cls, participants: Participants, packed: Mapping[str, bytes]) -> Choices:
        """What `pack` wrote. Raises SecureSumRefused as `of` does."""
        n = len(participants.sites)
        table = np.zeros((n, n), np.bool_)
        for site, bits in packed.items():
            if site not in participants.numbers or len(bits) != -(-n // 8):
                raise SecureSumRefused("the sites that shared, or their keepers, are not these participants")
            table[participants.numbers[site] - 1] = np.unpackbits(np.frombuffer(bits, np.uint8), count=n)
        return cls(participants, table)._checked()

    def pack(self) -> dict[str, bytes]:
        """For each site that shared, a bit a participant."""
        return {site: np.packbits(self.table[self.participants.numbers[site] - 1]).tobytes() for site in self.shared}

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The sites that passed stage 2, in the order of their names."""
        return self._names(self._is_shared)

    def keepers_of(self, site: str) -> tuple[str, ...]:
        """The sites that keep shares of this one's secrets, itself among them."""
        return self._names(self.table[self.participants.numbers[site] - 1])

    def kept_by(self, site: str) -> tuple[str, ...]:
        """The sites of whose secrets this one keeps shares; itself among them if it shared."""
        return self._names(self.table[:, self.participants.numbers[site] - 1])

    def peers_of(self, site: str) -> tuple[str, ...]:
        """The sites that this one masks with: of those that shared, the ones that it chose and the ones that chose
        it."""
        number = self.participants.numbers[site] - 1
        is_peer = (self.table[number] | self.table[:, number]) & self._is_shared
        is_peer[number] = False
        return self._names(is_peer)

    def fewest_keepers(self, sites: Collection[str], left: Collection[str]) -> int:
        """Of those of these sites that has fewest, how many keepers are left."""
        rows, columns = ([self.participants.numbers[name] - 1 for name in names] for names in (sites, left))
        return int(self.table[np.ix_(rows, columns)].sum(axis=1).min(initial=len(self.participants.sites)))

    @cached_property
    def digest(self) -> bytes:
        """What masked inputs are bound to: the participants, and every choice."""
        return hashlib.sha256(self.participants.digest + np.packbits(self.table).tobytes()).digest()

    @property
    def _is_shared(self) -> Bool[np.ndarray, " site"]:
        # Who shared is among its own keepers.
        return self.table.diagonal()

    def _names(self, is_there: Bool[np.ndarray, " site"]) -> tuple[str, ...]:
        names = self.participants.names
        return tuple([names[number] for number in np.flatnonzero(is_there).tolist()])

    def _checked(self) -> Choices:
        # "Each site chose as many keepers as it must, itself among them": of fewer it would take fewer to recover it.
        keepers = self.participants.neighbourhood.keepers
        rows = self.table.sum(axis=1)
        if not np.array_equal(rows, np.where(self.table.diagonal(), keepers, 0)):
            raise SecureSumRefused("a site has more or fewer keepers than it must have")
        return self
