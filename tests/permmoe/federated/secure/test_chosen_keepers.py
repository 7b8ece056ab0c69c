"""The secure sum where each site chooses its keepers: it is the sum, and a lying server has no say in who they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
import pytest

from permmoe.federated.secure import session, shamir
from permmoe.federated.secure.choices import Choices, choose_keepers
from permmoe.federated.secure.count_shares import sealed_bytes
from permmoe.federated.secure.exchanged import MaskedBits
from permmoe.federated.secure.neighbourhood import Neighbourhood
from permmoe.federated.secure.recovery import recover
from permmoe.federated.secure.session import Participants, SecureSumRefused
from tests.support.summed_on_a_table import BLOCKS, KEYS, RULES, SESSION, Sum, a_site, numbers, plain, whole

FEW = Neighbourhood(keepers=7, threshold=5)
"""Of 13 sites: two keepers of one may go silent, and two may work with the server."""
ALL = {name: numbers(name, *BLOCKS) for name in KEYS}
STAGES = ("share", "mask", "count", "open_")


@pytest.fixture(autouse=True)
def few_keepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(session, "neighbourhood", lambda n, share: FEW)
    yield


def some_choices(participants: Participants) -> Choices:
    return Choices.of(participants, {name: choose_keepers(participants, name) for name in participants.names})


def the_participants() -> Participants:
    return Participants.of(SESSION, [a_site(name).advertise() for name in KEYS], RULES.threshold_share)


def test_the_sum_is_the_plain_sum_to_the_last_bit_on_random_choices_and_dropouts() -> None:
    rng = np.random.default_rng(3)
    for _ in range(12):
        values = {name: numbers(name, *(b for b in BLOCKS if rng.random() < 0.6)) for name in KEYS}
        stages: dict[str, set[str]] = {stage: set() for stage in STAGES}
        for name in rng.permutation(list(KEYS))[:2].tolist():
            stages[str(rng.choice(STAGES))].add(name)
        without = stages["share"] | stages["mask"]
        unmasked, expected = whole(values, **stages), plain(values, without)
        holders = {b: sum(b in held for name, held in values.items() if name not in without) for b in BLOCKS}
        assert set(unmasked.values) == {block for block, n in holders.items() if n >= RULES.min_holders}
        assert all(np.array_equal(unmasked.values[block], expected[block]) for block in unmasked.values)


@pytest.mark.parametrize("stage", STAGES)
def test_two_keepers_of_a_site_may_go_silent_at_a_stage(stage: str) -> None:
    gone = {"site-04", "site-11"}
    unmasked, expected = whole(ALL, **{stage: gone}), plain(ALL, gone if stage in ("share", "mask") else ())
    assert all(np.array_equal(unmasked.values[block], expected[block]) for block in BLOCKS)


@pytest.mark.parametrize(
    ("stage", "is_gone_itself"),
    [("share", False), ("mask", False), ("mask", True), ("count", False), ("count", True), ("open_", True)],
)
def test_with_one_keeper_less_the_sum_fails_and_says_so(stage: str, is_gone_itself: bool) -> None:
    """A site that is there needs t keepers, itself among them, until all have counted; one that is gone, t others."""
    sum_ = Sum.advertised(KEYS)
    dealt = {name: site.share(sum_.adverts) for name, site in sum_.sites.items()}
    gone = {"site-00", *list(dealt["site-00"])[:2]} if is_gone_itself else set(list(dealt["site-00"])[:3])
    sum_.server.sealed = {name: sealed for name, sealed in dealt.items() if stage != "share" or name not in gone}
    with pytest.raises(SecureSumRefused, match=r"keepers .*5 that it takes|too few are left"):
        sum_.server.close_shares(list(sum_.server.sealed))
        sum_.masked(ALL, gone if stage == "mask" else ()).counted(gone if stage == "count" else ())
        sum_.unmasked(gone if stage == "open_" else ())


def test_each_site_chooses_by_chance_and_itself_always() -> None:
    participants = the_participants()
    drawn = [choose_keepers(participants, "site-03") for _ in range(600)]
    found = Counter(name for keepers in drawn for name in keepers)
    assert found.pop("site-03") == 600 and all(len(set(keepers)) == 7 for keepers in drawn)
    # Each other is drawn in half of the cases, 300 of 600 with a deviation of 12.
    assert len(found) == 12 and all(220 < n < 380 for n in found.values())


def test_masks_are_between_sites_of_which_one_chose_the_other_and_which_both_shared() -> None:
    participants = the_participants()
    all_choices = {name: choose_keepers(participants, name) for name in participants.names}
    shared = set(KEYS) - {"site-07"}
    choices = Choices.of(participants, {name: all_choices[name] for name in shared})
    for name in shared:
        expected = {o for o in shared - {name} if o in all_choices[name] or name in all_choices[o]}
        assert set(choices.peers_of(name)) == expected
        assert set(choices.kept_by(name)) == {o for o in shared if name in all_choices[o]}
    assert choices.keepers_of("site-07") == () and set(choices.shared) == shared


def test_choices_are_read_as_they_were_written() -> None:
    choices = some_choices(the_participants())
    again = Choices.unpack(choices.participants, choices.pack())
    assert np.array_equal(again.table, choices.table) and again.digest == choices.digest
    assert {len(packed) for packed in choices.pack().values()} == {2}


@pytest.mark.parametrize(
    "keepers",
    [
        {"site-00": list(KEYS)[:6]},
        {"site-00": list(KEYS)[:8]},
        {"site-00": list(KEYS)[1:9]},
        {"site-99": list(KEYS)[:7]},
        {"site-00": [*list(KEYS)[:6], "site-99"]},
    ],
)
def test_choices_of_too_few_or_many_or_of_strangers_are_refused(keepers: dict[str, list[str]]) -> None:
    with pytest.raises(SecureSumRefused, match=r"keepers than it must|not a participant"):
        Choices.of(the_participants(), keepers)


def test_attack_packed_choices_of_another_length_or_without_the_site_itself() -> None:
    participants = the_participants()
    for packed in ({"site-00": bytes(1)}, {"site-99": bytes(2)}, {"site-00": b"\x7f\x00"}, {"site-00": b"\x81\x00"}):
        with pytest.raises(SecureSumRefused):
            Choices.unpack(participants, packed)


# Attacks of a lying server.


def other_choice(choices: Choices, site: str, instead: str, of: str) -> Choices:
    """The choices, in which a site chose one keeper instead of another."""
    by_name = {name: set(choices.keepers_of(name)) for name in choices.shared}
    by_name[site] = (by_name[site] - {of}) | {instead}
    return Choices.of(choices.participants, by_name)


def chosen_and_not(choices: Choices, site: str) -> tuple[str, str]:
    chosen = next(name for name in choices.keepers_of(site) if name != site)
    return chosen, next(name for name in choices.participants.names if name not in choices.keepers_of(site))


def test_attack_a_server_that_chooses_a_sites_keepers() -> None:
    sum_ = Sum.advertised(KEYS).shared()
    chosen, other = chosen_and_not(sum_.server.choices, "site-00")
    made_up = other_choice(sum_.server.choices, "site-00", other, chosen)
    with pytest.raises(SecureSumRefused, match="chose other keepers than it is said to have chosen"):
        sum_.sites["site-00"].mask(sum_.server.shares_for("site-00"), made_up, ALL["site-00"])


def test_attack_a_keeper_is_not_told_that_it_was_chosen_and_gets_the_share_all_the_same() -> None:
    sum_ = Sum.advertised(KEYS).shared()
    chosen, other = chosen_and_not(sum_.server.choices, "site-00")
    made_up = other_choice(sum_.server.choices, "site-00", other, chosen)
    for site in (chosen, other):
        with pytest.raises(SecureSumRefused, match="other sites than are said to have chosen this one"):
            sum_.sites[site].mask(sum_.server.shares_for(site), made_up, ALL[site])


def test_attack_a_bystander_told_of_other_choices_and_all_others_notice() -> None:
    """Told so, it could believe that t keepers of site-00 agree where they do not."""
    sum_ = Sum.advertised(KEYS).shared()
    chosen, other = chosen_and_not(sum_.server.choices, "site-00")
    made_up = other_choice(sum_.server.choices, "site-00", other, chosen)
    bystander = next(name for name in KEYS if name not in (chosen, other, "site-00"))
    lied_to = sum_.sites[bystander].mask(sum_.server.shares_for(bystander), made_up, ALL[bystander])
    with pytest.raises(SecureSumRefused, match="not signed by its site"):
        sum_.server.take_input(lied_to)
    sum_.masked(ALL, {bystander})
    sum_.server.bits[bystander] = MaskedBits(lied_to.bits, lied_to.signature)
    sum_.counted()
    for site in (bystander, chosen):
        with pytest.raises(SecureSumRefused, match="not sealed for this site and these inputs"):
            sum_.sites[site].open(sum_.evidence(), sum_.keys_for(site))


def test_attack_a_site_that_deals_shares_to_fewer_keepers() -> None:
    sum_ = Sum.advertised(KEYS)
    sealed = sum_.sites["site-00"].share(sum_.adverts)
    sealed.pop(next(iter(sealed)))
    with pytest.raises(SecureSumRefused, match="shares are missing"):
        sum_.server.take_shares("site-00", sealed)


def two_stories(sum_: Sum, victim: str, n_colluding: int) -> tuple[set[bytes], Collection[str]]:
    """A server tells as many keepers of a site as it needs, beside those that work with it, that the site is lost; all
    others, that every input came. Returns what it makes of the shares of the site's mask key, and who knows the truth.
    """
    others = [name for name in sum_.server.choices.keepers_of(victim) if name != victim]
    colluding, honest = others[:n_colluding], others[n_colluding:]
    lied_to = honest[: FEW.threshold - n_colluding]
    without = [name for name in KEYS if name != victim]
    shares = {name: sum_.sites[name].count(without).mask_keys[victim] for name in lied_to}
    shares |= {name: sum_.sites[name]._shares[victim].mask_key for name in colluding}
    told = [name for name in KEYS if name not in lied_to]
    for name in told:
        sum_.server.take_count_shares(name, sum_.sites[name].count(list(KEYS)))
    keys = shamir.combine([{sum_.server.participants.numbers[name]: share for name, share in shares.items()}])
    return set(keys), told


@pytest.mark.parametrize("n_colluding", [0, 1, 2])
def test_attack_two_stories_and_as_many_colluding_keepers_as_the_bound_allows(n_colluding: int) -> None:
    sum_ = Sum.advertised(KEYS).shared().masked(ALL)
    _, told = two_stories(sum_, "site-05", n_colluding)
    # Nor can who works with the server recover the seed of its bits beside its mask key.
    assert sum(name in told for name in sum_.server.choices.keepers_of("site-05")) < FEW.threshold
    evidence = sum_.server.evidence({})
    for name in told:
        with pytest.raises(SecureSumRefused, match="too few of a site's keepers were told of the same inputs"):
            sum_.sites[name].open(evidence, sum_.keys_for(name))


def test_a_site_surrounded_by_more_colluding_keepers_than_the_bound_is_given_away() -> None:
    """What the bound is for: 2t - m = 3 colluding keepers, and the server has the mask key beside the block keys."""
    sum_ = Sum.advertised(KEYS).shared().masked(ALL)
    victim = sum_.sites["site-05"]
    [key], _ = two_stories(sum_, "site-05", 3)
    victim.open(sum_.server.evidence({}), sum_.keys_for("site-05"))
    assert key == session.masks.private_bytes(victim._mask) and victim.unmask().block_keys


def test_attack_shares_asked_for_of_more_silent_sites_than_may_go_silent() -> None:
    """Piece by piece the server would gather every site's seed, and with all of them what min_holders withholds."""
    sum_ = Sum.advertised(KEYS).shared().masked(ALL).counted().opened()
    keeper = max(KEYS, key=lambda name: len(sum_.server.choices.kept_by(name)))
    kept = [name for name in sum_.server.choices.kept_by(keeper) if name != keeper]
    others = [name for name in KEYS if name not in kept and name != keeper]
    assert set(sum_.sites[keeper].unmask([*kept[:2], *others[:1]]).input_seeds) == set(kept[:2])
    with pytest.raises(SecureSumRefused, match="too few are left"):
        sum_.sites[keeper].unmask(kept[2:3])


def test_attack_so_many_sites_said_to_be_silent_that_no_quorum_is_left_though_it_keeps_shares_of_few() -> None:
    sum_ = Sum.advertised(KEYS).shared().masked(ALL).counted().opened()
    keeper = min(KEYS, key=lambda name: len(sum_.server.choices.kept_by(name)))
    others = [name for name in KEYS if name not in sum_.server.choices.kept_by(keeper)]
    kept = [name for name in sum_.server.choices.kept_by(keeper) if name != keeper]
    spare = len(KEYS) - sum_.server.participants.quorum
    sum_.sites[keeper].unmask([*others, *kept[:2]][:spare])
    with pytest.raises(SecureSumRefused, match="too few are left"):
        sum_.sites[keeper].unmask([*others, *kept[:2]][: spare + 1])


def test_a_secret_with_fewer_shares_than_the_threshold_is_not_recovered_as_another_one() -> None:
    shares = dict.fromkeys(list(KEYS)[:4], bytes(16))
    with pytest.raises(SecureSumRefused, match="4 keepers of site-09 gave shares, of the 5 that it takes"):
        recover({"site-09": shares}, the_participants())


def test_a_site_gives_shares_of_those_alone_that_chose_it() -> None:
    sum_ = Sum.advertised(KEYS).shared().masked(ALL, {"site-12"}).counted()
    for name, shares in sum_.server.counted.items():
        assert ("site-12" in shares.mask_keys) == (name in sum_.server.choices.keepers_of("site-12"))
        assert len(shares.seeds) == sealed_bytes(len(set(sum_.server.choices.kept_by(name)) - {"site-12"}))


def test_participants_of_other_numbers_of_keepers_are_others() -> None:
    participants = the_participants()
    assert replace(participants, neighbourhood=Neighbourhood(7, 6)).digest != participants.digest
