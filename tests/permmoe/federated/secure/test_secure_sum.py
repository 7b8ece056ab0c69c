"""The secure sum: it is the sum, it survives dropouts, and a site refuses what a lying server asks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from scipy import stats

from permmoe.federated.fixed_point import LARGEST, ONE
from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure import masks
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedBits, UnmaskedSum, Unmasking
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Advertisement, Participants, SecureSumRefused, Session, threshold
from permmoe.federated.secure.site_sum import Rules, SiteSum

SESSION = Session("study", "training", 7, "model", "nonce")
BLOCKS = {"trunk": 11, "encoder/t1": 7, "encoder/tau": 5, "figures": 3}
RULES = Rules(threshold_share=0.5)
KEYS = {f"site-{i}": ec.generate_private_key(ec.SECP384R1()) for i in range(7)}
ROSTER = {name: key.public_key() for name, key in KEYS.items()}

Values = Mapping[str, np.ndarray]


def numbers(site: str, *blocks: str) -> Values:
    rng = np.random.default_rng(list(site.encode()))
    return {name: rng.integers(-(1 << 40), 1 << 40, BLOCKS[name]) for name in blocks}


def a_site(
    name: str, rules: Rules = RULES, session: Session = SESSION, account: ReleaseAccount | None = None
) -> SiteSum:
    return SiteSum(session, name, KEYS[name], ROSTER, rules, BLOCKS, account)


@dataclass
class Sum:
    """A whole sum on one table, to be stopped after any stage."""

    sites: dict[str, SiteSum]
    adverts: list[Advertisement]
    server: ServerSum

    @classmethod
    def advertised(cls, names: list[str], rules: Rules = RULES, account: ReleaseAccount | None = None) -> Sum:
        sites = {name: a_site(name, rules, account=account) for name in names}
        adverts = [site.advertise() for site in sites.values()]
        participants = Participants.of(SESSION, adverts, threshold(rules.threshold_share, len(names)))
        return cls(sites, adverts, ServerSum(participants, BLOCKS, ROSTER))

    def shared(self, without: set[str] = frozenset()) -> Sum:
        for name, site in self.sites.items():
            if name not in without:
                self.server.take_shares(name, site.share(self.adverts, self.server.participants.threshold))
        return self

    def masked(self, values: Mapping[str, Values], without: set[str] = frozenset()) -> Sum:
        for name in self.server.sealed:
            if name not in without:
                self.server.take_input(self.sites[name].mask(self.server.shares_for(name), values[name]))
        return self

    def counted(self, without: set[str] = frozenset()) -> Sum:
        for name in self.server.bits:
            if name not in without:
                self.server.take_count_shares(name, self.sites[name].count(list(self.server.bits)))
        return self

    def evidence_for(self, site: str) -> Evidence:
        return self.server.evidence_for(site, self.server.lost_keys())

    def unmasked(self, without: set[str] = frozenset()) -> UnmaskedSum:
        silent = sorted((set(self.server.bits) - set(self.server.counted)) | without)
        unmaskings: dict[str, Unmasking] = {
            name: self.sites[name].unmask(self.evidence_for(name), silent)
            for name in self.server.counted
            if name not in silent
        }
        return self.server.unmask(self.server.lost_keys(), unmaskings, silent)


def whole(values: Mapping[str, Values], *, share=frozenset(), mask=frozenset(), count=frozenset(), open_=frozenset()):
    sum_ = Sum.advertised(list(values)).shared(set(share)).masked(values, set(mask))
    return sum_.counted(set(count)).unmasked(set(open_))


def plain(values: Mapping[str, Values], without: set[str] = frozenset()) -> dict[str, np.ndarray]:
    sums: dict[str, np.ndarray] = {}
    for name, held in values.items():
        for block, v in held.items():
            if name not in without:
                sums[block] = sums.get(block, 0) + v
    return sums


ALL = {name: numbers(name, *BLOCKS) for name in KEYS}


def test_the_secure_sum_is_the_plain_sum_to_the_last_bit() -> None:
    unmasked, expected = whole(ALL), plain(ALL)
    assert unmasked.values.keys() == expected.keys()
    assert all(np.array_equal(unmasked.values[block], expected[block]) for block in expected)


@pytest.mark.parametrize("stage", ["share", "mask", "count", "open_"])
def test_sites_that_drop_out_at_any_stage_are_recovered_down_to_the_threshold(stage: str) -> None:
    gone = {"site-1", "site-4", "site-6"}
    unmasked = whole(ALL, **{stage: gone})
    is_in_sum = stage in ("count", "open_")
    expected = plain(ALL, set() if is_in_sum else gone)
    assert all(np.array_equal(unmasked.values[block], expected[block]) for block in expected)


def test_twenty_random_federations_with_dropouts_at_every_stage_give_the_sum_of_all_that_sent_an_input() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        names = list(KEYS)[: rng.integers(5, 8)]
        values = {name: numbers(name, "trunk", *(b for b in list(BLOCKS)[1:] if rng.random() < 0.6)) for name in names}
        spare = len(names) - threshold(0.5, len(names))
        gone = rng.permutation(names)[:spare].tolist()
        stages: dict[str, set[str]] = {"share": set(), "mask": set(), "count": set(), "open_": set()}
        for name in gone:
            stages[rng.choice(list(stages))].add(name)
        unmasked = whole(values, **stages)
        expected = plain(values, stages["share"] | stages["mask"])
        holders = {
            b: sum(b in v for n, v in values.items() if n not in stages["share"] | stages["mask"]) for b in BLOCKS
        }
        assert set(unmasked.values) == {block for block, n in holders.items() if n >= RULES.min_holders}
        assert all(np.array_equal(unmasked.values[block], expected[block]) for block in unmasked.values)


def test_below_the_threshold_nothing_is_recovered() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match="sites are left"):
        sum_.counted(set(list(KEYS)[:4])).unmasked()


@pytest.mark.parametrize(("n_holders", "released"), [(0, False), (2, False), (3, True), (7, True)])
def test_of_a_block_the_server_learns_only_whether_min_holders_hold_it(n_holders: int, released: bool) -> None:
    values = {name: numbers(name, "trunk", *(["encoder/tau"] if i < n_holders else [])) for i, name in enumerate(KEYS)}
    assert set(whole(values).values) == {"trunk", *(["encoder/tau"] if released else [])}


def test_masked_numbers_are_uniform_and_uncorrelated_with_the_input() -> None:
    blocks = {"trunk": 1 << 20}
    sites = {name: SiteSum(SESSION, name, KEYS[name], ROSTER, RULES, blocks) for name in list(KEYS)[:3]}
    adverts = [site.advertise() for site in sites.values()]
    server = ServerSum(Participants.of(SESSION, adverts, 2), blocks, ROSTER)
    for name, site in sites.items():
        server.take_shares(name, site.share(adverts, 2))
    held = np.arange(1 << 20, dtype=np.int64) * ONE // 100000
    masked = sites["site-0"].mask(server.shares_for("site-0"), {"trunk": held})
    counts = np.bincount(np.frombuffer(masked.numbers.tobytes(), np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(masked.numbers.view(np.int64).astype(float), held.astype(float))[0, 1]) < 0.01
    assert not np.array_equal(masked.numbers.view(np.int64), held)


def test_a_message_has_the_same_size_whatever_a_site_holds() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared()
    rich = sum_.sites["site-0"].mask(sum_.server.shares_for("site-0"), numbers("site-0", *BLOCKS))
    poor = sum_.sites["site-1"].mask(sum_.server.shares_for("site-1"), {})
    assert (rich.numbers.nbytes, rich.bits.nbytes) == (poor.numbers.nbytes, poor.bits.nbytes)


def test_a_value_that_could_wrap_around_is_an_error() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared()
    with pytest.raises(SecureSumRefused, match="wrapping"):
        sum_.sites["site-0"].mask(
            sum_.server.shares_for("site-0"), {"trunk": np.full(11, LARGEST // 7 + 1, dtype=np.int64)}
        )


# Attacks of a lying server. Each is what it would send, and the site's answer is a refusal.


def test_attack_both_kinds_of_share_for_one_peer() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    site = sum_.sites["site-0"]
    shares = site.count([name for name in KEYS if name != "site-3"])
    assert "site-3" in shares.mask_keys and "site-3" not in shares.sealed
    # Six seeds of 16 bytes under a tag of 16: none of the site that is said to be lost.
    assert {len(sealed) for sealed in shares.sealed.values()} == {6 * 16 + 16}
    with pytest.raises(SecureSumRefused, match="stage 4"):
        site.count(list(KEYS))


def test_attack_telling_half_of_the_sites_that_a_live_one_is_lost_gathers_too_few_shares_of_either_kind() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    told_lost, told_alive = list(KEYS)[:3], list(KEYS)[3:6]
    without = [n for n in KEYS if n != "site-6"]
    lost = {name: sum_.sites[name].count(without) for name in told_lost}
    alive = {name: sum_.sites[name].count(list(KEYS)) for name in told_alive}
    assert max(len(lost), len(alive)) < sum_.server.participants.threshold
    # Whose shares it passes on does not help: the two halves sealed them for different inputs.
    sum_.server.counted = {**lost, **alive}
    evidence = Evidence(dict(sum_.server.bits), {n: s.sealed["site-3"] for n, s in lost.items()}, {})
    with pytest.raises(SecureSumRefused, match="not sealed for this site and these inputs"):
        sum_.sites["site-3"].unmask(evidence)


def test_attack_different_arrivals_told_to_different_sites() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    told = {name: [n for n in KEYS if n != ("site-5" if i % 2 else "site-6")] for i, name in enumerate(list(KEYS)[:5])}
    replies = {name: sum_.sites[name].count(arrived) for name, arrived in told.items()}
    # As many sites, so that the shares are as long; site-0 was told that site-6 is lost, site-1 that site-5 is.
    bits = {name: sum_.server.bits[name] for name in told["site-0"]}
    evidence = Evidence(bits, {name: replies[name].sealed["site-0"] for name in ("site-1", "site-2", "site-3")}, {})
    with pytest.raises(SecureSumRefused, match="site-1 were not sealed for this site and these inputs"):
        sum_.sites["site-0"].unmask(evidence)


def everything_that_t_shares_give(replies: Mapping[str, CountShares], participants: Participants) -> set[bytes]:
    """What a server makes of all shares that it was given in stage 4, whatever they are called."""
    found: set[bytes] = set()
    for kind in vars(next(iter(replies.values()))):
        for about in KEYS:
            shares = {
                participants.names.index(site) + 1: given[about]
                for site, reply in replies.items()
                if about in (given := getattr(reply, kind))
            }
            size = min(map(len, shares.values()), default=0) // 16 * 16
            for start in range(0, size, 16):
                pieces = {number: share[start : start + 16] for number, share in shares.items()}
                found.add(masks.combine(dict(list(pieces.items())[: participants.threshold])))
                found |= set(pieces.values())
    return found


def test_attack_a_server_that_combines_all_that_it_was_given_has_no_seed_of_the_bits() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL, {"site-5"})
    replies = {name: sum_.sites[name].count(list(sum_.server.bits)) for name in sum_.server.bits}
    participants = sum_.server.participants
    digests = {hashlib.sha256(seed).digest() for seed in everything_that_t_shares_give(replies, participants)}
    assert not digests & {site.count_commitment for site in participants.sites}


def attack_on_the_peers(change: Callable[[list[Advertisement]], list[Advertisement]], t: int, match: str) -> None:
    sum_ = Sum.advertised(list(KEYS))
    with pytest.raises(SecureSumRefused, match=match):
        sum_.sites["site-0"].share(change(sum_.adverts), t)


def test_attack_a_roster_with_invented_peers() -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    invented = SiteSum(SESSION, "site-9", stranger, ROSTER, RULES, BLOCKS).advertise()
    attack_on_the_peers(lambda adverts: [*adverts, invented], threshold(0.5, 8), "not in the roster")


def test_attack_a_name_of_the_roster_with_keys_that_the_server_signed() -> None:
    fake = SiteSum(SESSION, "site-1", ec.generate_private_key(ec.SECP384R1()), ROSTER, RULES, BLOCKS).advertise()
    attack_on_the_peers(lambda adverts: [adverts[0], fake, *adverts[2:]], 4, "site-1 are not signed")


def test_attack_a_peers_key_swapped() -> None:
    attack_on_the_peers(lambda a: [a[0], replace(a[1], mask_key=a[2].mask_key), *a[2:]], 4, "site-1 are not signed")


def test_attack_this_sites_own_key_swapped() -> None:
    other = a_site("site-0").advertise()
    attack_on_the_peers(lambda adverts: [other, *adverts[1:]], 4, "own keys")


def test_attack_one_peer_twice() -> None:
    attack_on_the_peers(lambda adverts: [*adverts, adverts[1]], threshold(0.5, 8), "twice")


def test_attack_t_lowered() -> None:
    attack_on_the_peers(lambda adverts: adverts, 3, "threshold")


def test_attack_n_lowered_below_the_sites_own_rule() -> None:
    attack_on_the_peers(lambda adverts: adverts[:2], 2, "takes part in sums of 3 or more")


def test_attack_a_cohort_of_one() -> None:
    attack_on_the_peers(lambda adverts: adverts[:1], 1, "takes part in sums of 3 or more")


def test_attack_keys_of_an_old_round_replayed() -> None:
    old = a_site("site-1", session=replace(SESSION, round=6)).advertise()
    attack_on_the_peers(lambda adverts: [adverts[0], old, *adverts[2:]], 4, "site-1 are not signed")


def test_attack_shares_of_an_old_round_replayed() -> None:
    old, new = Sum.advertised(list(KEYS)).shared(), Sum.advertised(list(KEYS)).shared()
    replayed = {**new.server.shares_for("site-0"), "site-1": old.server.sealed["site-1"]["site-0"]}
    with pytest.raises(SecureSumRefused, match="site-1 were not sealed"):
        new.sites["site-0"].mask(replayed, {})


def test_attack_different_cohorts_for_different_sites() -> None:
    sum_ = Sum.advertised(list(KEYS))
    few, t = sum_.adverts[:5], threshold(0.5, 5)
    sealed = sum_.sites["site-1"].share(few, t)
    sum_.sites["site-0"].share(sum_.adverts, sum_.server.participants.threshold)
    with pytest.raises(SecureSumRefused, match="not sealed for this site and these participants"):
        sum_.sites["site-0"].mask({"site-1": sealed["site-0"]} | dict.fromkeys(list(KEYS)[2:], b""), {})


def test_attack_an_input_from_too_few_sites() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match="3 sites are left"):
        sum_.sites["site-0"].count(["site-0", "site-1", "site-2"])


def test_attack_the_same_input_asked_for_twice() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match="stage 3"):
        sum_.sites["site-0"].mask(sum_.server.shares_for("site-0"), ALL["site-0"])


# Sums that a server would subtract from one another.

AFTER_ALL = ReleaseAccount().after(dict.fromkeys(KEYS, 1))
"""A sum over all seven sites was unmasked before."""


def test_attack_participants_that_differ_by_one_from_those_of_an_earlier_sum() -> None:
    sum_ = Sum.advertised(list(KEYS)[:6], account=AFTER_ALL)
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.shared()


def test_attack_a_site_said_to_have_shared_nothing_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared({"site-6"})
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.masked(ALL)


def test_attack_a_site_said_to_be_lost_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared().masked(ALL)
    without_one, without_two = list(KEYS)[:6], list(KEYS)[:5]
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.sites["site-0"].count(without_one)
    assert set(sum_.sites["site-1"].count(without_two).mask_keys) == {"site-5", "site-6"}


def test_attack_two_sites_joined_and_then_one_of_them_left_out() -> None:
    five_then_all = ReleaseAccount().after(dict.fromkeys(list(KEYS)[:5], 1)).after(dict.fromkeys(KEYS, 1))
    sum_ = Sum.advertised(list(KEYS)[:6], account=five_then_all)
    with pytest.raises(SecureSumRefused, match="by subtraction"):
        sum_.shared()


@pytest.mark.parametrize("least", [1, 2, 3])
def test_sums_that_differ_by_as_many_sites_as_the_rule_says_are_given(least: int) -> None:
    rules = replace(RULES, min_cohort_difference=least)
    names = list(KEYS)[: 7 - least]
    sum_ = Sum.advertised(names, rules, AFTER_ALL).shared().masked(ALL).counted()
    expected = plain(ALL, set(KEYS) - set(names))
    assert all(np.array_equal(values, expected[block]) for block, values in sum_.unmasked().values.items())


RARE = {name: numbers(name, "trunk", *(["encoder/tau"] if name == "site-2" else [])) for name in KEYS}
"""One hospital with tau PET: its block must stay masked whatever the server says."""


def lie(change: Callable[[Evidence, Sum], Evidence], match: str) -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE, {"site-5"}).counted()
    evidence = change(sum_.evidence_for("site-0"), sum_)
    with pytest.raises(SecureSumRefused, match=match):
        sum_.sites["site-0"].unmask(evidence)


def test_attack_a_block_of_one_holder_is_not_opened() -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE)
    unmasking = sum_.sites["site-2"].unmask(sum_.counted().evidence_for("site-2"))
    assert set(unmasking.block_keys) == {"trunk"}


def test_attack_bits_changed_to_invent_holders() -> None:
    def change(evidence: Evidence, _: Sum) -> Evidence:
        bits = evidence.bits["site-1"]
        more = bits.bits + np.array([0, 0, 1, 0], np.uint32)
        return replace(evidence, bits={**evidence.bits, "site-1": MaskedBits(more, bits.signature)})

    lie(change, "not those that it signed")


def sealed(evidence: Evidence, **changed: bytes) -> Evidence:
    """Evidence with other sealed shares, by their sender's name with an underscore."""
    return replace(evidence, sealed={**evidence.sealed, **{k.replace("_", "-"): v for k, v in changed.items()}})


def test_attack_sealed_shares_of_one_peer_passed_off_as_anothers() -> None:
    lie(lambda e, _: sealed(e, site_1=e.sealed["site-2"]), "site-1 were not sealed for this site")


def test_attack_sealed_shares_that_were_meant_for_another_site() -> None:
    lie(lambda e, s: sealed(e, site_1=s.server.counted["site-1"].sealed["site-3"]), "site-1 were not sealed")


def test_attack_sealed_shares_invented() -> None:
    lie(lambda e, _: sealed(e, site_1=bytes(len(e.sealed["site-1"]))), "site-1 were not sealed")


def test_attack_sealed_shares_of_stage_2_in_the_place_of_those_of_stage_4() -> None:
    lie(lambda e, s: sealed(e, site_1=s.server.sealed["site-1"]["site-0"]), "site-1 were not sealed")


def test_attack_sealed_shares_of_an_old_session_replayed() -> None:
    def change(evidence: Evidence, _: Sum) -> Evidence:
        old = Sum.advertised(list(RARE)).shared().masked(RARE, {"site-5"}).counted()
        return sealed(evidence, site_1=old.server.counted["site-1"].sealed["site-0"])

    lie(change, "site-1 were not sealed")


def test_attack_sealed_shares_of_a_site_that_sent_no_input() -> None:
    lie(lambda e, _: sealed(e, site_5=e.sealed["site-1"]), "sent no input")


def test_attack_sealed_shares_left_out_below_the_threshold() -> None:
    lie(lambda e, _: replace(e, sealed={"site-1": e.sealed["site-1"]}), "2 sites gave shares of the seeds, of the 4")


def test_attack_a_peers_shares_of_other_seeds_than_the_committed_ones() -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE)
    for share in sum_.sites["site-1"]._shares.values():
        share.count_seed = bytes(16)
    evidence = sum_.counted().evidence_for("site-0")
    with pytest.raises(SecureSumRefused, match="not the one that it committed to"):
        sum_.sites["site-0"].unmask(evidence)


def test_attack_a_lost_sites_mask_key_changed_to_invent_holders() -> None:
    lie(lambda e, _: replace(e, mask_keys={"site-5": bytes(range(32))}), "not the one that it advertised")


def test_attack_other_evidence_as_more_sites_are_said_to_be_silent() -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE).counted()
    evidence, site = sum_.evidence_for("site-0"), sum_.sites["site-0"]
    site.unmask(evidence)
    fewer = replace(evidence, sealed={n: s for n, s in evidence.sealed.items() if n != "site-6"})
    with pytest.raises(SecureSumRefused, match="has changed"):
        site.unmask(fewer, ["site-6"])


def test_attack_evidence_about_fewer_sites_than_sent_their_input() -> None:
    def change(evidence: Evidence, _: Sum) -> Evidence:
        bits = {name: b for name, b in evidence.bits.items() if name != "site-2"}
        return replace(evidence, bits=bits)

    lie(change, "other sites")


def test_attack_too_many_sites_said_to_be_silent() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL).counted()
    evidence, site = sum_.evidence_for("site-0"), sum_.sites["site-0"]
    site.unmask(evidence, ["site-1", "site-2"])
    site.unmask(evidence, ["site-3"])
    with pytest.raises(SecureSumRefused, match="too few are left"):
        site.unmask(evidence, ["site-4"])


def test_a_site_with_a_stricter_rule_keeps_a_block_masked_for_everybody() -> None:
    values = {name: numbers(name, "trunk", *(["encoder/tau"] if i < 4 else [])) for i, name in enumerate(KEYS)}
    sum_ = Sum.advertised(list(values))
    strict = SiteSum(SESSION, "site-6", KEYS["site-6"], ROSTER, replace(RULES, min_holders=5), BLOCKS)
    sum_.sites["site-6"] = strict
    sum_.adverts = [*sum_.adverts[:6], strict.advertise()]
    sum_.server.participants = Participants.of(SESSION, sum_.adverts, sum_.server.participants.threshold)
    sum_.shared().masked(values)
    assert set(sum_.counted().unmasked().values) == {"trunk"}


def test_every_site_releases_the_same_blocks_though_each_counts_for_itself() -> None:
    values = {name: numbers(name, "trunk", *(["encoder/tau"] if i < 4 else [])) for i, name in enumerate(KEYS)}
    sum_ = Sum.advertised(list(values)).shared().masked(values, {"site-5"}).counted({"site-6"})
    released = [set(sum_.sites[n].unmask(sum_.evidence_for(n), ["site-6"]).block_keys) for n in sum_.server.counted]
    assert released == [{"trunk", "encoder/tau"}] * 5


@pytest.mark.parametrize("share", [0.5, 2 / 3, 0.9])
def test_the_threshold_is_more_than_half_and_can_be_met(share: float) -> None:
    assert all(n < 2 * threshold(share, n) and threshold(share, n) <= n for n in range(1, 200))
