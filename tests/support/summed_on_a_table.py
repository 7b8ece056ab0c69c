"""A whole secure sum on one table, to be stopped after any stage: sites and server without messages between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict

from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure.exchanged import Evidence, UnmaskedSum, Unmasking
from permmoe.federated.secure.messages import read_keys, write_keys
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Advertisement, Participants, Session
from permmoe.federated.secure.site_sum import Rules, SiteSum

SESSION = Session("study", "training", 7, "model", "nonce")
BLOCKS = {"trunk": 11, "encoder/t1": 7, "encoder/tau": 5, "figures": 3}
RULES = Rules(threshold_share=0.5)
KEYS = {f"site-{i:02d}": ec.generate_private_key(ec.SECP384R1()) for i in range(13)}
SEVEN = dict(list(KEYS.items())[:7])
ROSTER = {name: key.public_key() for name, key in KEYS.items()}

Values = Mapping[str, np.ndarray]


def numbers(site: str, *blocks: str) -> Values:
    """A site's numbers, the same each time."""
    rng = np.random.default_rng(list(site.encode()))
    return {name: rng.integers(-(1 << 40), 1 << 40, BLOCKS[name]) for name in blocks}


def a_site(
    name: str, rules: Rules = RULES, session: Session = SESSION, account: ReleaseAccount | None = None
) -> SiteSum:
    """A site of the roster."""
    return SiteSum(session, name, KEYS[name], ROSTER, rules, BLOCKS, account)


@dataclass
class Sum:
    """A sum as far as it has come."""

    sites: dict[str, SiteSum]
    adverts: list[Advertisement]
    server: ServerSum

    @classmethod
    def advertised(cls, names: Collection[str], rules: Rules = RULES, account: ReleaseAccount | None = None) -> Sum:
        """After stage 1."""
        sites = {name: a_site(name, rules, account=account) for name in names}
        adverts = [site.advertise() for site in sites.values()]
        return cls(sites, adverts, ServerSum(Participants.of(SESSION, adverts, rules.threshold_share), BLOCKS, ROSTER))

    def shared(self, without: Collection[str] = ()) -> Sum:
        """After stage 2."""
        for name, site in self.sites.items():
            if name not in without:
                self.server.take_shares(name, site.share(self.adverts))
        self.server.close_shares(tuple(self.server.sealed))
        return self

    def masked(self, values: Mapping[str, Values], without: Collection[str] = ()) -> Sum:
        """After stage 3."""
        for name in self.server.sealed:
            if name not in without:
                shares = self.server.shares_for(name)
                self.server.take_input(self.sites[name].mask(shares, self.server.choices, values[name]))
        return self

    def counted(self, without: Collection[str] = ()) -> Sum:
        """After stage 4."""
        for name in self.server.bits:
            if name not in without:
                self.server.take_count_shares(name, self.sites[name].count(list(self.server.bits)))
        return self

    def evidence(self) -> Evidence:
        """What an honest server sends every site."""
        return self.server.evidence(self.server.lost_keys())

    def keys_for(self, site: str) -> Mapping[str, bytes]:
        """The sealed keys that an honest server sends a site, as it reads them."""
        content = RecordDict({"count-shares": write_keys(self.server.keys_for(site))})
        return read_keys(content, self.server.counted.keys() - {site})

    def opened(self, without: Collection[str] = ()) -> Sum:
        """Every site has counted."""
        evidence = self.evidence()
        for name in self.server.counted:
            if name not in without:
                self.sites[name].open(evidence, self.keys_for(name))
        return self

    def unmasked(self, without: Collection[str] = ()) -> UnmaskedSum:
        """After stage 5, which sites are asked for twice: some go silent in it."""
        self.opened(without)
        silent = sorted((set(self.server.bits) - set(self.server.counted)) | set(without))
        unmaskings: dict[str, Unmasking] = {
            name: self.sites[name].unmask(silent) for name in self.server.counted if name not in silent
        }
        for name, unmasking in unmaskings.items():
            self.server.check_unmasking(name, unmasking, silent)
        return self.server.unmask(self.server.lost_keys(), unmaskings, silent)


def whole(
    values: Mapping[str, Values],
    *,
    share: Collection[str] = (),
    mask: Collection[str] = (),
    count: Collection[str] = (),
    open_: Collection[str] = (),
) -> UnmaskedSum:
    """The sum of what the sites hold, where some go silent at each stage."""
    return Sum.advertised(list(values)).shared(share).masked(values, mask).counted(count).unmasked(open_)


def plain(values: Mapping[str, Values], without: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The same without masks."""
    sums: dict[str, np.ndarray] = {}
    for name, held in values.items():
        for block, v in held.items():
            if name not in without:
                sums[block] = sums.get(block, 0) + v
    return sums
