"""The section on slow hospitals."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd
import pytest

from permmoe_simulation.report.costs import round_split
from permmoe_simulation.report.slow_sites import pace_of, slow_sites_section, slow_sites_sentences
from tests.support.report_page import texts, view

ROWS = pd.DataFrame(
    [(seed, number, site, 60.0 * number, staleness)
     for seed in (0, 1)
     for number, row in ((1, (0, 0, nan)), (2, (0, nan, nan)), (3, (0, 0, 2)))
     for site, staleness in zip(("ant", "bee", "cow"), row, strict=True)],
    columns=["seed", "round", "site", "round_seconds", "staleness"],
)  # fmt: skip


def test_a_pace_adds_up_rounds_and_counts_updates() -> None:
    pace = pace_of(ROWS)
    assert (pace.rounds, pace.seconds) == (3, 360.0)
    assert pace.counted == pytest.approx(6 / 9) and pace.late == pytest.approx(1 / 6)
    assert pace.least == pytest.approx(1 / 3)


def test_a_federation_of_which_no_update_counted_has_no_late_ones() -> None:
    assert pace_of(ROWS.assign(staleness=nan)).late == 0.0


def test_the_section_is_there_in_simulated_time_alone(small: Path) -> None:
    assert slow_sites_section(view(small)) is None and slow_sites_sentences(view(small)) == []
    rounds = pd.read_csv(small / "rounds.csv", dtype={"site": str})
    assert round_split(rounds.assign(write_seconds=0.0, staleness=0.0)) == {}
    rounds.assign(staleness=0.0, round_seconds=90.0).to_csv(small / "rounds.csv", index=False)
    assert "Time is simulated" in texts(slow_sites_section(view(small)))
    [sentence] = slow_sites_sentences(view(small))
    assert (
        "with 100% of the updates counted, 0% of them late, and 100% of those of the least heard hospital" in sentence
    )
