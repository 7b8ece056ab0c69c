"""False evidence of how many sites hold a block: a site that counts for itself finds it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from permmoe.federated.secure.exchanged import Evidence, MaskedBits
from permmoe.federated.secure.session import SecureSumRefused
from tests.support.summed_on_a_table import BLOCKS, Sum, numbers
from tests.support.summed_on_a_table import SEVEN as KEYS

ALL = {name: numbers(name, *BLOCKS) for name in KEYS}


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
        sum_.sites["site-00"].open(evidence or sum_.evidence(), keys or sum_.keys_for("site-00"))


def test_attack_bits_changed_to_invent_holders() -> None:
    sum_ = rare()
    evidence, bits = sum_.evidence(), sum_.server.bits["site-01"]
    more = MaskedBits(bits.bits + np.array([0, 0, 1, 0], np.uint32), bits.signature)
    refuses(sum_, "not those that it signed", evidence=replace(evidence, bits={**evidence.bits, "site-01": more}))


def with_key(sum_: Sum, key: bytes) -> Mapping[str, bytes]:
    return {**sum_.keys_for("site-00"), "site-01": key}


def test_attack_a_sealed_key_of_one_peer_passed_off_as_anothers() -> None:
    sum_ = rare()
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, sum_.keys_for("site-00")["site-02"]))


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
    refuses(sum_, "site-01 was not sealed", keys=with_key(sum_, old.keys_for("site-00")["site-01"]))


def test_attack_shares_of_an_old_session_replayed_under_the_key_of_this_one() -> None:
    sum_, old = rare(), rare()
    evidence = sum_.evidence()
    seeds = {**evidence.seeds, "site-01": old.evidence().seeds["site-01"]}
    refuses(sum_, "shares of site-01 were not sealed for these inputs", evidence=replace(evidence, seeds=seeds))


def test_attack_a_sealed_key_of_a_site_that_sent_no_input() -> None:
    sum_ = rare()
    refuses(sum_, "sent no input", keys={**sum_.keys_for("site-00"), "site-05": bytes(48)})


def test_attack_sealed_shares_left_out_below_the_threshold() -> None:
    sum_ = rare()
    evidence, keys = sum_.evidence(), sum_.keys_for("site-00")
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
