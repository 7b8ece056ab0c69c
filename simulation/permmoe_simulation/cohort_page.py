"""The page that sets synthetic cohorts beside what is published of ADNI."""

from __future__ import annotations

from collections.abc import Mapping

from permmoe_simulation.published_cohort import Published

NOTHING = "no figure was found"


def cohort_page(
    cohorts: Mapping[str, Mapping[str, str]], published: Mapping[str, tuple[Published, ...]], command: str
) -> str:
    """Markdown: a row a figure, a column a cohort, then what is published, its source, and how it is known.

    `cohorts` are the figures of each (permmoe_simulation.cohort_figures), by a heading; all have the same names.
    """
    first = next(iter(cohorts.values()))
    lines = [
        "# The synthetic cohort beside ADNI",
        "",
        "SYNTHETIC: figures of the cohorts are of invented subjects. This page is made by",
        f"`{command}`; do not edit it.",
        "",
        "`read`: the source's abstract or table was read for this page. `estimate`: this project's own, for which no",
        "publication could be read. Numbers in brackets are standard deviations; a correlation is with the change in",
        "CDR-SB at 24 months; a share of the change is what a hidden cause explains beside all others.",
        "",
        f"| figure | {' | '.join(cohorts)} | published | source | known |",
        f"|---|{'---|' * len(cohorts)}---|---|---|",
    ]
    for name in first:
        own = " | ".join(figures[name] for figures in cohorts.values())
        rows = published.get(name, ())
        if not rows:
            lines.append(f"| {name} | {own} | {NOTHING} | | |")
        for number, row in enumerate(rows):
            shown = f"| {name} | {own} |" if number == 0 else f"| | {' | ' * (len(cohorts) - 1)}|"
            lines.append(f"{shown} {row.figure} | {row.source} | {row.known} |")
    return "\n".join(lines) + "\n"
