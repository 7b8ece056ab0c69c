"""The page of intervals."""

from __future__ import annotations

from pathlib import Path

from permmoe_benchmarks.pages.intervals import new_hospital_chapter

PAGE = Path(__file__).parents[3] / "docs" / "intervals.md"


def test_the_published_page_ends_with_what_a_new_hospital_should_do() -> None:
    assert PAGE.read_text().endswith(new_hospital_chapter())
