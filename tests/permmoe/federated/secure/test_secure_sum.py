"""The secure sum: it is the sum, it survives dropouts, and a site refuses what a lying server asks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from scipy import stats

from permmoe.federated.fixed_point import LARGEST, ONE
from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure import shamir
from permmoe.federated.secure.count_shares import sealed_bytes
from permmoe.federated.secure.exchanged import CountShares, Evidence, MaskedBits, MaskedInput
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Advertisement, Participants, SecureSumRefused, threshold
from permmoe.federated.secure.site_sum import SiteSum
from tests.support import summed_on_a_table
from tests.support.summed_on_a_table import BLOCKS, ROSTER, RULES, SESSION, Sum, Values, a_site, numbers, plain, whole

KEYS = dict(list(summed_on_a_table.KEYS.items())[:7])
ALL = {name: numbers(name, *BLOCKS) for name in KEYS}


def test_the_secure_sum_is_the_plain_sum_to_the_last_bit() -> None:
    unmasked, expected = whole(ALL), plain(ALL)
    assert unmasked.values.keys() == expected.keys()
    assert all(np.array_equal(unmasked.values[block], expected[block]) for block in expected)


@pytest.mark.parametrize("stage", ["share", "mask", "count", "open_"])
def test_sites_that_drop_out_at_any_stage_are_recovered_down_to_the_threshold(stage: str) -> None:
    gone = {"site-01", "site-04", "site-06"}
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
    server = ServerSum(Participants.of(SESSION, adverts, 0.5), blocks, ROSTER)
    for name, site in sites.items():
        server.take_shares(name, site.share(adverts))
    server.close_shares(list(sites))
    held = np.arange(1 << 20, dtype=np.int64) * ONE // 100000
    masked = sites["site-00"].mask(server.shares_for("site-00"), server.choices, {"trunk": held})
    counts = np.bincount(np.frombuffer(masked.numbers.tobytes(), np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(np.corrcoef(masked.numbers.view(np.int64).astype(float), held.astype(float))[0, 1]) < 0.01
    assert not np.array_equal(masked.numbers.view(np.int64), held)


def mask(sum_: Sum, site: str, values: Values, **changed: bytes) -> MaskedInput:
    """The masked input of a site that is sent some other shares than the peers', by names with an underscore."""
    shares = sum_.server.shares_for(site) | {name.replace("_", "-"): share for name, share in changed.items()}
    return sum_.sites[site].mask(shares, sum_.server.choices, values)


def test_a_message_has_the_same_size_whatever_a_site_holds() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared()
    rich = mask(sum_, "site-00", numbers("site-00", *BLOCKS))
    poor = mask(sum_, "site-01", {})
    assert (rich.numbers.nbytes, rich.bits.nbytes) == (poor.numbers.nbytes, poor.bits.nbytes)


def test_a_value_that_could_wrap_around_is_an_error() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared()
    with pytest.raises(SecureSumRefused, match="wrapping"):
        mask(sum_, "site-00", {"trunk": np.full(11, LARGEST // 7 + 1, dtype=np.int64)})


# Attacks of a lying server. Each is what it would send, and the site's answer is a refusal.


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
    lax = [
        SiteSum(SESSION, n, summed_on_a_table.KEYS[n], ROSTER, replace(RULES, threshold_share=0.9), BLOCKS)
        for n in KEYS
    ]
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


# Sums that a server would subtract from one another.

AFTER_ALL = ReleaseAccount().after(dict.fromkeys(KEYS, 1))
"""A sum over all seven sites was unmasked before."""


def test_attack_participants_that_differ_by_one_from_those_of_an_earlier_sum() -> None:
    sum_ = Sum.advertised(list(KEYS)[:6], account=AFTER_ALL)
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.shared()


def test_attack_a_site_said_to_have_shared_nothing_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared({"site-06"})
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.masked(ALL)


def test_attack_a_site_said_to_be_lost_so_that_the_sum_differs_by_it() -> None:
    sum_ = Sum.advertised(list(KEYS), account=AFTER_ALL).shared().masked(ALL)
    without_one, without_two = list(KEYS)[:6], list(KEYS)[:5]
    with pytest.raises(SecureSumRefused, match="fewer than 2 sites by subtraction"):
        sum_.sites["site-00"].count(without_one)
    assert set(sum_.sites["site-01"].count(without_two).mask_keys) == {"site-05", "site-06"}


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


RARE = {name: numbers(name, "trunk", *(["encoder/tau"] if name == "site-02" else [])) for name in KEYS}
"""One hospital with tau PET: its block must stay masked whatever the server says."""


def test_attack_a_block_of_one_holder_is_not_opened() -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE).counted().opened()
    assert set(sum_.sites["site-02"].unmask().block_keys) == {"trunk"}


def rare() -> Sum:
    """A sum in which site-05 sent no input."""
    return Sum.advertised(list(RARE)).shared().masked(RARE, {"site-05"}).counted()


def refuses(
    sum_: Sum, match: str, *, evidence: Evidence | None = None, keys: Mapping[str, bytes] | None = None
) -> None:
    """Whether site-00 refuses other evidence, or other sealed keys, than an honest server's."""
    with pytest.raises(SecureSumRefused, match=match):
        sum_.sites["site-00"].open(evidence or sum_.evidence(), keys or sum_.server.keys_for("site-00"))


def test_attack_bits_changed_to_invent_holders() -> None:
    sum_ = rare()
    evidence, bits = sum_.evidence(), sum_.server.bits["site-01"]
    more = MaskedBits(bits.bits + np.array([0, 0, 1, 0], np.uint32), bits.signature)
    refuses(sum_, "not those that it signed", evidence=replace(evidence, bits={**evidence.bits, "site-01": more}))


def with_key(sum_: Sum, key: bytes) -> Mapping[str, bytes]:
    return {**sum_.server.keys_for("site-00"), "site-01": key}


def test_attack_a_sealed_key_of_one_peer_passed_off_as_anothers() -> None:
    sum_ = rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, sum_.server.keys_for("site-00")["site-02"]))


def test_attack_a_sealed_key_that_was_meant_for_another_site() -> None:
    sum_ = rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, sum_.server.counted["site-01"].keys["site-03"]))


def test_attack_a_sealed_key_invented() -> None:
    sum_ = rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, bytes(48)))


def test_attack_sealed_shares_of_stage_2_in_the_place_of_a_key_of_stage_4() -> None:
    sum_ = rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, sum_.server.sealed["site-01"]["site-00"]))


def test_attack_a_sealed_key_of_an_old_session_replayed() -> None:
    sum_, old = rare(), rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, old.server.keys_for("site-00")["site-01"]))


def test_attack_shares_of_an_old_session_replayed_under_the_key_of_this_one() -> None:
    sum_, old = rare(), rare()
    evidence = sum_.evidence()
    seeds = {**evidence.seeds, "site-01": old.evidence().seeds["site-01"]}
    refuses(sum_, "shares of site-01 were not sealed for these inputs", evidence=replace(evidence, seeds=seeds))


def test_attack_a_sealed_key_of_a_site_that_sent_no_input() -> None:
    sum_ = rare()
    refuses(sum_, "sent no input", keys={**sum_.server.keys_for("site-00"), "site-05": bytes(48)})


def test_attack_sealed_shares_left_out_below_the_threshold() -> None:
    sum_ = rare()
    evidence, keys = sum_.evidence(), sum_.server.keys_for("site-00")
    few = {name: evidence.seeds[name] for name in ("site-00", "site-01")}
    refuses(sum_, "2 sites are left", evidence=replace(evidence, seeds=few), keys={"site-01": keys["site-01"]})


def test_attack_a_peers_shares_of_other_seeds_than_the_committed_ones() -> None:
    sum_ = Sum.advertised(list(RARE)).shared().masked(RARE)
    for share in sum_.sites["site-01"]._shares.values():
        share.count_seed = bytes(16)
    refuses(sum_.counted(), "not the one that it committed to")


def test_attack_a_lost_sites_mask_key_changed_to_invent_holders() -> None:
    sum_ = rare()
    other = replace(sum_.evidence(), mask_keys={"site-05": bytes(range(32))})
    refuses(sum_, "not the one that it advertised", evidence=other)


def test_attack_other_evidence_as_more_sites_are_said_to_be_silent() -> None:
    sum_ = rare().opened()
    refuses(sum_, "stage 5 was asked for after stage 5")


def test_attack_masks_asked_for_before_holders_are_counted() -> None:
    with pytest.raises(SecureSumRefused, match="before holders were counted"):
        rare().sites["site-00"].unmask()


def test_attack_masks_asked_for_after_evidence_that_was_refused() -> None:
    sum_ = rare()
    refuses(sum_, "was not sealed", keys=with_key(sum_, bytes(48)))
    with pytest.raises(SecureSumRefused, match="before holders were counted"):
        sum_.sites["site-00"].unmask()


def test_attack_evidence_about_fewer_sites_than_sent_their_input() -> None:
    sum_ = rare()
    evidence = sum_.evidence()
    fewer = {name: b for name, b in evidence.bits.items() if name != "site-02"}
    refuses(sum_, "other sites", evidence=replace(evidence, bits=fewer))


def test_attack_too_many_sites_said_to_be_silent() -> None:
    site = Sum.advertised(list(ALL)).shared().masked(ALL).counted().opened().sites["site-00"]
    site.unmask(["site-01", "site-02"])
    site.unmask(["site-03"])
    with pytest.raises(SecureSumRefused, match="too few are left"):
        site.unmask(["site-04"])


def test_a_site_with_a_stricter_rule_keeps_a_block_masked_for_everybody() -> None:
    values = {name: numbers(name, "trunk", *(["encoder/tau"] if i < 4 else [])) for i, name in enumerate(KEYS)}
    sum_ = Sum.advertised(list(values))
    strict = a_site("site-06", replace(RULES, min_holders=5))
    sum_.sites["site-06"] = strict
    sum_.adverts = [*sum_.adverts[:6], strict.advertise()]
    sum_.server.participants = Participants.of(SESSION, sum_.adverts, RULES.threshold_share)
    sum_.shared().masked(values)
    assert set(sum_.counted().unmasked().values) == {"trunk"}


def test_every_site_releases_the_same_blocks_though_each_counts_for_itself() -> None:
    values = {name: numbers(name, "trunk", *(["encoder/tau"] if i < 4 else [])) for i, name in enumerate(KEYS)}
    sum_ = Sum.advertised(list(values)).shared().masked(values, {"site-05"}).counted({"site-06"}).opened()
    released = [set(sum_.sites[n].unmask(["site-06"]).block_keys) for n in sum_.server.counted]
    assert released == [{"trunk", "encoder/tau"}] * 5
