"""What would have become of a new hospital: every way is judged on the same patients, and the page shows each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from permmoe_benchmarks.measurements.hospital_calibration import WAYS, measure, page
from tests.simulation.report.test_coverage import cell


def test_every_way_is_judged_on_the_same_patients_and_none_is_as_good_as_with_an_offset(tmp_path: Path) -> None:
    one = replace(cell(tmp_path, 0, shift=2.0, unseen=("b",)), regime="plain-10")
    found = measure([one], (10, 50))
    assert set(found) == {("plain", "none", 0)} | {("plain", way, n) for way in WAYS for n in (10, 50)}
    assert len({tuple(judged[0].subjects) for judged in found.values()}) == 1
    share = {key[1:]: judged[0].held[0] / judged[0].n[0] for key, judged in found.items() if judged[0].n[0]}
    assert share["none", 0] < share["split conformal, pooled", 50] < share["offset alone", 50]


def test_the_page_has_a_line_for_every_way_and_says_where_patients_are_too_few(tmp_path: Path) -> None:
    one = replace(cell(tmp_path, 0, unseen=("b",)), regime="plain-10")
    told = page(measure([one], (10, 50)), [0], "python benchmarks/new_hospital.py")
    assert all(told.count(f"| {way} |") == 2 for way in WAYS) and "| none | 0 |" in told
    # Ten patients alone give no interval of 95%: for one that ends at none of them it takes 39.
    line = next(row for row in told.splitlines() if "patients alone | 10 |" in row)
    assert "too few patients" in line
