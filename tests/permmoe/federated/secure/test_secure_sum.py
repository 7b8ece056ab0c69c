"""The secure sum: it is the sum, it survives dropouts, and of each block it shows no more than it has to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from permmoe.federated.fixed_point import LARGEST, ONE
from permmoe.federated.secure.exchanged import MaskedInput
from permmoe.federated.secure.server_sum import ServerSum
from permmoe.federated.secure.session import Participants, SecureSumRefused, threshold
from permmoe.federated.secure.site_sum import SiteSum
from tests.support.summed_on_a_table import BLOCKS, ROSTER, RULES, SESSION, Sum, Values, a_site, numbers, plain, whole
from tests.support.summed_on_a_table import SEVEN as KEYS

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


def test_each_site_is_given_the_keys_that_the_others_sealed_for_it_and_none_twice() -> None:
    sum_ = Sum.advertised(list(KEYS)).shared().masked(ALL, {"site-02"})
    for silent in ({"site-01", "site-04"}, {"site-04"}):
        # One more answers after keys were asked for.
        for name in sorted(sum_.server.bits.keys() - silent - sum_.server.counted.keys()):
            sum_.server.take_count_shares(name, sum_.sites[name].count(list(sum_.server.bits)))
        for site in sum_.server.bits:
            one_by_one = {sender: shares.keys[site] for sender, shares in sum_.server.counted.items() if sender != site}
            assert sum_.keys_for(site) == one_by_one


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
