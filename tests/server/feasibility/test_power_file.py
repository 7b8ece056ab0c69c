"""The curves of a power study, as far as a survey's page reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.errors import DataError
from permmoe_server.feasibility.power_file import COLUMNS, read_power
from permmoe_simulation.power.curves import POWER
from tests.support.survey_numbers import write_power


def test_only_effects_that_were_planted_have_a_curve(tmp_path: Path) -> None:
    power = read_power(write_power(tmp_path / "power.csv"))
    assert {curve.reference for curve in power.curves} == {"training-mean", "kernel-ridge"}
    assert power.most_cohorts == 5


def test_the_columns_are_those_that_a_power_study_writes() -> None:
    assert set(COLUMNS) <= set(POWER.required_columns)


def test_a_share_is_read_between_the_cohorts_over_the_logarithm_of_patients_and_nowhere_else(tmp_path: Path) -> None:
    curve = read_power(write_power(tmp_path / "power.csv")).with_sites_near(6)[0]
    assert curve.sites == 4 and curve.name == "federated errs less than training-mean"
    assert curve.share_at(100) == 0.2 and curve.share_at(800) == 1.0
    assert curve.share_at(173) == pytest.approx(0.5, abs=0.005)
    assert curve.share_at(99) is None and curve.share_at(801) is None
    assert [curve.in_words(n) for n in (99, 173, 2000)] == ["below 100: not planted", "50%", "100% at 800"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "has no row"),
        ("a,b\n1,2\n", "lacks patients"),
        (",".join(COLUMNS) + "\nmany,4,r,m,n,mean,lower,5,0.5\n", "no number where one belongs"),
        (",".join(COLUMNS) + "\n100,4,r,m,n,mean,not known,5,0.5\n", "no effect that was planted"),
        (",".join(COLUMNS) + "\n100,4,r,m,n,mean,lower\n", "no effect that was planted"),
    ],
)
def test_a_file_that_is_no_power_study_is_refused_in_words(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_power(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_power(tmp_path / "absent.csv")
