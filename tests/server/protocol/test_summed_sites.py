"""What the coordinator remembers of secure sums: no site that knows some of them refuses what it asks for."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure.session import Session
from permmoe_server.protocol.summed_sites import SummedSites

SESSION = Session("study", "training", 1, "model", "nonce")
SITES = tuple(f"site-{i}" for i in range(7))


def test_a_site_that_is_missing_takes_others_out_with_it() -> None:
    sums = SummedSites()
    sums.add(SESSION, SITES)
    assert sums.choose(SITES[:6], 2) == SITES[:5] and sums.choose(SITES[:5], 2) == SITES[:5]
    assert not sums.admits(SITES[:6], 2) and sums.admits(SITES[:6], 1)


def test_a_sum_is_on_disk_before_it_counts() -> None:
    kept: list[tuple[str, ...]] = []
    sums = SummedSites(keep=lambda session, sites: kept.append((session.purpose, *sites)))
    sums.add(SESSION, SITES[2::-1])
    assert kept == [("training", *SITES[:3])]


@pytest.mark.parametrize("least", [1, 2, 3])
def test_a_site_that_took_part_in_some_sums_refuses_none_that_the_coordinator_chooses(least: int) -> None:
    """Over random federations whose sites come, go, and go silent before a sum that they are in is unmasked."""
    rng = np.random.default_rng(least)
    n_sums = 0
    for _ in range(60):
        sums, own = SummedSites(), {site: ReleaseAccount() for site in SITES}
        for _ in range(8):
            chosen = sums.choose([site for site in SITES if rng.random() < 0.8], least)
            arrived = [site for site in chosen if rng.random() < 0.95]
            if not arrived or not sums.admits(arrived, least):
                continue
            n_sums += 1
            sums.add(SESSION, arrived)
            for site in arrived:
                assert own[site].admits(dict.fromkeys(chosen, 1), least)
                assert own[site].admits(dict.fromkeys(arrived, 1), least)
                if rng.random() < 0.9:
                    own[site] = own[site].after(dict.fromkeys(arrived, 1))
    assert n_sums > 100
