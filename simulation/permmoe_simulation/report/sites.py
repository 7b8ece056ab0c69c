"""The table and the section of the sites: which site holds how many visits of each modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from permmoe.data.visits import VisitTable
from permmoe_simulation.report.content import Entry, Section, Table, Text, count
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import StudyTable, text, whole

PARTS = ("train", "validation", "test")
SITES = StudyTable(
    "sites",
    "a site's visits by modality, and those of each part whose outcome is known, for the study's first cell",
    (*text("site"), *whole(*PARTS, unit="visits")),
    has_modality_columns=True,
)


def site_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of SITES."""
    names = done.config.model.names
    rows: list[Mapping[str, Any]] = []
    for site, table in done.sites.items():
        counts = {name: sum(name in visit.observed(names) for visit in table) for name in names}
        parts = {part: _known(table, part) for part in PARTS}
        rows.append({"site": site, **counts, **parts})
    return pd.DataFrame(rows)


def _known(table: VisitTable, part: str) -> int:
    return sum(visit.split == part and visit.delta_cdrsb is not None for visit in table)


def sites_section(view: View) -> Section:
    """Which site holds how many of each modality."""
    sites = view.study.table(SITES)
    title = "Who has what"
    if sites is None:
        return Section("sites", title, [Text("Not available: the study left no table of sites (sites.csv).")])
    modalities = [m for m in view.modalities if m in sites.columns]
    columns = [*modalities, *PARTS]
    numbers = sites[columns].apply(pd.to_numeric, errors="coerce").fillna(0).astype(int)
    peak = max(1, int(numbers[modalities].to_numpy().max(initial=0)))
    rows = [
        [
            Entry(str(site)),
            *(
                Entry(f"{n:,}", heat=(0.08 + 0.92 * n / peak) if n and c in modalities else 0.0, is_quiet=n == 0)
                for c, n in ((c, int(line[c])) for c in columns)
            ),
        ]
        for site, line in zip(sites["site"], numbers.to_dict("records"), strict=True)
    ]
    total = [
        Entry(f"{len(sites)} sites" if len(sites) > 1 else "1 site"),
        *(Entry(f"{numbers[c].sum():,}") for c in columns),
    ]
    table = Table(
        "Visits with each modality at each site, the darker the more; then the visits of each split. A site with 0 "
        "in a column never trains that modality's encoder and router.",
        ["Site", *modalities, "Train", "Validation", "Test"],
        [*rows, total],
        has_total=True,
    )
    left_out = view.summary.left_out_sites
    note = [Text(f"{count(left_out, 'more site')} took no part: too few training visits.")] if left_out else []
    return Section("sites", title, [table, *note])


SITES_SECTION = ReportSection(sites_section, {SITES: site_rows})
