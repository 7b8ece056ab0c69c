"""What a lying server sends before there is anything to count, and the refusal that each site answers with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from permmoe.federated.secure import shamir
from permmoe.federated.secure.count_shares import sealed_bytes
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedInput
from permmoe.federated.secure.session import Advertisement, Participants, SecureSumRefused
from permmoe.federated.secure.site_sum import SiteSum
from tests.support.summed_on_a_table import BLOCKS, ROSTER, RULES, SESSION, Sum, Values, a_site, numbers
from tests.support.summed_on_a_table import SEVEN as KEYS

ALL = {name: numbers(name, *BLOCKS) for name in KEYS}


def mask(sum_: Sum, site: str, values: Values, **changed: bytes) -> MaskedInput:
    """The masked input of a site that is sent some other shares than the peers', by names with an underscore."""
    shares = sum_.server.shares_for(site) | {name.replace("_", "-"): share for name, share in changed.items()}
    return sum_.sites[site].mask(shares, sum_.server.choices, values)


def test_attack_both_kinds_of_share_for_one_peer() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    site = sum_.sites["site-00"]
    shares = site.count([name for name in KEYS if name != "site-03"])
    assert "site-03" in shares.mask_keys and "site-03" not in shares.keys
    # Shares of six seeds: none of the site that is said to be lost.
    assert len(shares.seeds) == sealed_bytes(6)
    with pytest.raises(SecureSumRefused, match="stage 4"):
        site.count(list(KEYS))


def two_faced(sum_: Sum, told: Mapping[str, list[str]], to: str) -> None:
    """Let a server tell each of these sites of the arrivals that it likes, and one of them what it has made of that."""
    replies = {name: sum_.sites[name].count(arrived) for name, arrived in told.items()}
    senders = [name for name in replies if name in told[to]]
    bits = {name: sum_.server.bits[name] for name in told[to]}
    evidence = Evidence(bits, {name: replies[name].seeds for name in senders}, {})
    sum_.sites[to].open(evidence, {name: replies[name].keys[to] for name in senders if name != to})


def test_attack_telling_half_of_the_sites_that_a_live_one_is_lost_gathers_too_few_shares_of_either_kind() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    without = [n for n in KEYS if n != "site-06"]
    told_lost, told_alive = list(KEYS)[:3], list(KEYS)[3:6]
    assert max(len(told_lost), len(told_alive)) < sum_.server.participants.quorum
    # Whose keys it passes on does not help: the two halves sealed them for different inputs.
    with pytest.raises(SecureSumRefused, match="not sealed for this site and these inputs"):
        two_faced(sum_, {n: without if n in told_lost else list(KEYS) for n in (*told_lost, *told_alive)}, "site-03")


@pytest.mark.parametrize("n_told", [1, 2, 3])
def test_attack_two_faced_survivors_are_refused_by_each_half_that_is_short_of_the_threshold(n_told: int) -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match=r"sites are left|keepers were told"):
        two_faced(sum_, {name: list(KEYS) for name in list(KEYS)[:n_told]}, "site-00")


def test_attack_different_arrivals_told_to_different_sites() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    told = {
        name: [n for n in KEYS if n != ("site-05" if i % 2 else "site-06")] for i, name in enumerate(list(KEYS)[:5])
    }
    # As many sites, so that what is sealed is as long; site-00 was told that site-06 is lost, site-01 that site-05 is.
    with pytest.raises(SecureSumRefused, match="site-01 was not sealed for this site and these inputs"):
        two_faced(sum_, told, "site-00")


def everything_that_t_shares_give(replies: Mapping[str, CountShares], participants: Participants) -> set[bytes]:
    """What a server makes of all pieces that it was given in stage 4, whatever they are called."""
    pieces: dict[str, list[bytes]] = {
        site: [
            text[start : start + 16]
            for text in (reply.seeds, *reply.keys.values(), *reply.mask_keys.values())
            for start in range(0, len(text) - 15, 16)
        ]
        for site, reply in replies.items()
    }
    t, found = participants.neighbourhood.threshold, {piece for of_site in pieces.values() for piece in of_site}
    for together in zip(*pieces.values(), strict=True):
        shares = {participants.numbers[site]: piece for site, piece in zip(pieces, together, strict=True)}
        found |= set(shamir.combine([dict(list(shares.items())[:t])]))
    return found


def test_attack_a_server_that_combines_all_that_it_was_given_has_no_seed_of_the_bits() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL, {"site-05"})
    replies = {name: sum_.sites[name].count(list(sum_.server.bits)) for name in sum_.server.bits}
    participants = sum_.server.participants
    digests = {hashlib.sha256(seed).digest() for seed in everything_that_t_shares_give(replies, participants)}
    assert not digests & {site.count_commitment for site in participants.sites}


def attack_on_the_peers(change: Callable[[list[Advertisement]], list[Advertisement]], match: str) -> None:
    sum_ = Sum.advertised(list(KEYS))
    with pytest.raises(SecureSumRefused, match=match):
        sum_.sites["site-00"].share(change(sum_.adverts))


def test_attack_a_roster_with_invented_peers() -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    invented = SiteSum(SESSION, "site-99", stranger, ROSTER, RULES, BLOCKS).advertise()
    attack_on_the_peers(lambda adverts: [*adverts, invented], "not in the roster")


def test_attack_a_name_of_the_roster_with_keys_that_the_server_signed() -> None:
    fake = SiteSum(SESSION, "site-01", ec.generate_private_key(ec.SECP384R1()), ROSTER, RULES, BLOCKS).advertise()
    attack_on_the_peers(lambda adverts: [adverts[0], fake, *adverts[2:]], "site-01 are not signed")


def test_attack_a_peers_key_swapped() -> None:
    attack_on_the_peers(lambda a: [a[0], replace(a[1], mask_key=a[2].mask_key), *a[2:]], "site-01 are not signed")


def test_attack_this_sites_own_key_swapped() -> None:
    other = a_site("site-00").advertise()
    attack_on_the_peers(lambda adverts: [other, *adverts[1:]], "own keys")


def test_attack_one_peer_twice() -> None:
    attack_on_the_peers(lambda adverts: [*adverts, adverts[1]], "twice")


def test_attack_t_lowered() -> None:
    """A site asks nobody for t. Peers that were made to share with another one are of other participants."""
    sum_ = Sum.advertised(list(KEYS))
    lax = [SiteSum(SESSION, n, KEYS[n], ROSTER, replace(RULES, threshold_share=0.9), BLOCKS) for n in KEYS]
    sum_.adverts = [sum_.adverts[0], *(site.advertise() for site in lax[1:])]
    sum_.sites |= dict(list(zip(KEYS, lax, strict=True))[1:])
    sum_.server.participants = Participants.of(SESSION, sum_.adverts, RULES.threshold_share)
    with pytest.raises(SecureSumRefused, match="site-01 were not sealed for this site and these participants"):
        sum_.shared().masked(ALL)


def test_attack_n_lowered_below_the_sites_own_rule() -> None:
    attack_on_the_peers(lambda adverts: adverts[:2], "takes part in sums of 3 or more")


def test_attack_a_cohort_of_one() -> None:
    attack_on_the_peers(lambda adverts: adverts[:1], "takes part in sums of 3 or more")


def test_attack_keys_of_an_old_round_replayed() -> None:
    old = a_site("site-01", session=replace(SESSION, round=6)).advertise()
    attack_on_the_peers(lambda adverts: [adverts[0], old, *adverts[2:]], "site-01 are not signed")


def test_attack_shares_of_an_old_round_replayed() -> None:
    old, new = Sum.advertised(list(KEYS)).shared(), Sum.advertised(list(KEYS)).shared()
    with pytest.raises(SecureSumRefused, match="site-01 were not sealed"):
        mask(new, "site-00", {}, site_01=old.server.sealed["site-01"]["site-00"])


def test_attack_different_cohorts_for_different_sites() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared({"site-01"})
    sealed = sum_.sites["site-01"].share(sum_.adverts[:5])
    sum_.server.sealed["site-01"] = {**sum_.server.sealed["site-00"], "site-00": sealed["site-00"]}
    sum_.server.sealed["site-01"].pop("site-01")
    sum_.server.close_shares(list(KEYS))
    with pytest.raises(SecureSumRefused, match="site-01 were not sealed for this site and these participants"):
        mask(sum_, "site-00", {})


def test_attack_an_input_from_too_few_sites() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match="3 sites are left"):
        sum_.sites["site-00"].count(["site-00", "site-01", "site-02"])


def test_attack_the_same_input_asked_for_twice() -> None:
    sum_ = Sum.advertised(list(ALL)).shared().masked(ALL)
    with pytest.raises(SecureSumRefused, match="stage 3"):
        mask(sum_, "site-00", ALL["site-00"])
