"""How many keepers a site has: enough that chance surrounds none and strands none, by sums that leave nothing out."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest

from permmoe.federated.secure.neighbourhood import (
    ALL_UP_TO,
    COLLUDING_ONE_IN,
    CORRECTNESS_BITS,
    DROPPED_ONE_IN,
    SECURITY_BITS,
    Neighbourhood,
    neighbourhood,
    threshold,
)
from permmoe.federated.secure.tails import binomial_tail, hypergeometric_tail

SIZES = (ALL_UP_TO + 1, 300, 433, 1000, 3000)
SHARE = 2 / 3


def exact_hypergeometric_tail(population: int, marked: int, drawn: int, least: int) -> Fraction:
    ways = sum(
        math.comb(marked, x) * math.comb(population - marked, drawn - x) for x in range(max(least, 0), drawn + 1)
    )
    return Fraction(ways, math.comb(population, drawn))


def exact_binomial_tail(trials: int, chance: Fraction, least: int) -> Fraction:
    return sum(
        (math.comb(trials, x) * chance**x * (1 - chance) ** (trials - x) for x in range(max(least, 0), trials + 1)),
        Fraction(0),
    )


@pytest.mark.parametrize("least", [-1, 0, 1, 5, 11, 17, 18, 40])
def test_a_hypergeometric_tail_is_the_exact_sum(least: int) -> None:
    for population, marked, drawn in ((97, 17, 31), (97, 80, 31), (23, 23, 11), (23, 0, 11), (999, 166, 131)):
        exact = exact_hypergeometric_tail(population, marked, drawn, least)
        assert hypergeometric_tail(population, marked, drawn, least) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("least", [-1, 0, 1, 7, 29, 30])
def test_a_binomial_tail_is_the_exact_sum(least: int) -> None:
    for trials, wins, outcomes in ((29, 3, 17), (29, 16, 17), (100, 131, 999)):
        exact = exact_binomial_tail(trials, Fraction(wins, outcomes), least)
        assert binomial_tail(trials, wins, outcomes, least) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 40, 100, ALL_UP_TO])
def test_in_a_small_federation_all_sites_keep_shares_and_nothing_is_left_to_chance(n: int) -> None:
    assert neighbourhood(n, SHARE) == Neighbourhood(n, threshold(SHARE, n))


def chance_of_being_surrounded(n: int, share: float = SHARE) -> Fraction:
    """At most so likely 2t - m keepers of some site are among the colluding ones."""
    m, t = neighbourhood(n, share).keepers, neighbourhood(n, share).threshold
    return n * exact_hypergeometric_tail(n - 1, n // COLLUDING_ONE_IN, m - 1, 2 * t - m)


def chance_of_failing(n: int, dropped: int, share: float = SHARE) -> Fraction:
    """At most so likely some site has too few keepers left, or keeps shares of too many that are gone."""
    m, t = neighbourhood(n, share).keepers, neighbourhood(n, share).threshold
    # Of the site that is gone the own share is gone too; t of the m - 1 others have to be left.
    stranded = exact_hypergeometric_tail(n - 1, dropped, m - 1, m - t)
    return n * (stranded + exact_binomial_tail(dropped, Fraction(m - 1, n - 1), m - t + 1))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("share", [0.5, SHARE, 0.75])
def test_no_site_of_a_large_federation_is_surrounded_or_stranded(n: int, share: float) -> None:
    found = neighbourhood(n, share)
    assert found.threshold >= threshold(share, found.keepers) and 2 * found.threshold > found.keepers < n
    assert chance_of_being_surrounded(n, share) <= Fraction(1, 2**SECURITY_BITS)
    assert chance_of_failing(n, n // DROPPED_ONE_IN, share) <= Fraction(1, 2**CORRECTNESS_BITS)


@pytest.mark.parametrize("n", SIZES)
def test_fewer_keepers_would_be_too_few(n: int) -> None:
    m = neighbourhood(n, SHARE).keepers - 1
    colluding, dropped = n // COLLUDING_ONE_IN, n // DROPPED_ONE_IN
    for t in range(threshold(SHARE, m), m + 1):
        is_insecure = n * hypergeometric_tail(n - 1, colluding, m - 1, 2 * t - m) > 2.0**-SECURITY_BITS
        failing = hypergeometric_tail(n - 1, dropped, m - 1, m - t) + binomial_tail(dropped, m - 1, n - 1, m - t + 1)
        assert is_insecure or n * failing > 2.0**-CORRECTNESS_BITS


@pytest.mark.parametrize("n", SIZES)
def test_no_part_of_the_honest_sites_can_be_cut_off_whichever_sites_are_said_to_be_lost(n: int) -> None:
    """A site goes on while t of its keepers do. To be cut off with b - 1 others it must have chosen t - 1 of its other
    keepers among these and the colluding sites, and so must each of them. All such parts up to half of the honest
    sites: Σ_b C(h, b) p_b^b."""
    found, colluding = neighbourhood(n, SHARE), n // COLLUDING_ONE_IN
    honest, total = n - colluding, 0.0
    for b in range(1, honest // 2 + 1):
        p = hypergeometric_tail(n - 1, b - 1 + colluding, found.keepers - 1, found.threshold - 1)
        if p > 0:
            log_ways = math.lgamma(honest + 1) - math.lgamma(b + 1) - math.lgamma(honest - b + 1)
            total += 2.0 ** max((log_ways + b * math.log(p)) / math.log(2), -1000.0)
    assert total < 2.0**-100


def test_a_threshold_that_leaves_too_few_spare_keepers_makes_all_sites_keepers() -> None:
    assert neighbourhood(1000, 0.95) == Neighbourhood(1000, 951)
    assert neighbourhood(1000, 0.8).keepers > neighbourhood(1000, SHARE).keepers


@pytest.mark.parametrize("share", [0.5, SHARE, 0.9])
def test_the_threshold_is_more_than_half_and_can_be_met(share: float) -> None:
    assert all(n < 2 * threshold(share, n) and threshold(share, n) <= n for n in range(1, 200))


def test_the_table_of_the_threat_model_is_right() -> None:
    """Its columns: n, m, t, colluding keepers, silent keepers, and how likely too many of either kind are."""
    text = (Path(__file__).parents[4] / "docs/threat-model.md").read_text()
    table = text.split("| sites n | keepers m |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 5
    for row in table:
        n, m, t, colluding, silent, surrounded, fails = (cell.strip() for cell in row.strip("|").split("|"))
        found = neighbourhood(int(n), SHARE)
        assert (int(m), int(t)) == (found.keepers, found.threshold)
        assert (int(colluding), int(silent)) == (
            2 * found.threshold - found.keepers - 1,
            found.keepers - found.threshold,
        )
        if found.keepers == int(n):
            assert int(n) // COLLUDING_ONE_IN <= int(colluding) and int(n) // DROPPED_ONE_IN <= int(silent)
            assert surrounded == fails == "cannot be"
        else:
            assert surrounded == f"2^{math.log2(chance_of_being_surrounded(int(n))):.1f}"
            assert fails == f"2^{math.log2(chance_of_failing(int(n), int(n) // DROPPED_ONE_IN)):.1f}"


def test_the_chances_of_failing_that_the_threat_model_tells_are_right() -> None:
    assert math.log2(chance_of_failing(1000, 120)) == pytest.approx(-12.7, abs=0.1)
    assert chance_of_failing(1000, 150) == pytest.approx(0.0606, abs=1e-4)
    assert chance_of_failing(1000, 200) > 1
