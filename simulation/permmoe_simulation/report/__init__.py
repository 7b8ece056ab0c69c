"""The report of a study: one self-contained page, made from the files of its folder and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from permmoe_simulation.report.files import read_study
from permmoe_simulation.report.page import SECTIONS, page
from permmoe_simulation.report.section import ReportSection, tables_of

__all__ = ["SECTIONS", "ReportSection", "render_report"]


def render_report(folder: Path, sections: Sequence[ReportSection] = SECTIONS) -> Path:
    """Write `report.html` into a finished study's folder and return its path.

    The same files give the same bytes. Files that a study need not write may be missing: their section says so.
    Raises DataError where the folder holds no study or a file that cannot be understood.
    """
    html = page(read_study(folder, tables_of(sections)), sections)
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8", newline="\n")
    return path
