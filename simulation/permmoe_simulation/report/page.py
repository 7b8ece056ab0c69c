"""Put the sections together and write them as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import count

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from permmoe_simulation.report.accuracy import (
    learning_section,
    numbers_section,
    rmse_section,
    strata_section,
)
from permmoe_simulation.report.content import Entry, Plot, Section, Table, interval, signed
from permmoe_simulation.report.differences import differences_section
from permmoe_simulation.report.files import Goal, Study, Summary
from permmoe_simulation.report.gap import gap_section
from permmoe_simulation.report.privacy import privacy_section
from permmoe_simulation.report.ranking import ranking_section
from permmoe_simulation.report.style import with_mark, with_prefix
from permmoe_simulation.report.view import view_of
from permmoe_simulation.report.workings import (
    costs_section,
    experts_section,
    gaps_section,
    images_section,
    methods_section,
    repeat_section,
    sites_section,
)

SECTIONS = (
    rmse_section,
    methods_section,
    differences_section,
    ranking_section,
    gap_section,
    numbers_section,
    strata_section,
    learning_section,
    sites_section,
    experts_section,
    costs_section,
    privacy_section,
    images_section,
    gaps_section,
    repeat_section,
)
"""The answer first, then what supports it, then how to repeat it."""

NAME_WITH_HYPHEN = re.compile(r"\b[A-Z]\w{1,7}-[A-Z]\w{1,7}\b")


def page(study: Study) -> str:
    """The page of a study that compares methods."""
    view = view_of(study)
    goals = _goals_table(study.summary.goals) if study.summary.goals else None
    return rendered(study.summary, [section for build in SECTIONS if (section := build(view))], goals)


def rendered(summary: Summary, sections: Sequence[Section], goals: Table | None = None) -> str:
    """A whole page. Every text is escaped; only figures, drawn by this program, are taken as they are."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    numbers = count(1)

    def numbered(plot: Plot) -> tuple[int, Markup]:
        number = next(numbers)
        svg = with_mark(plot.svg, "synthetic data") if summary.synthetic else plot.svg
        return number, Markup(with_prefix(svg, f"figure{number}-"))

    environment.filters["unbroken"] = _unbroken
    template = environment.from_string(
        (files("permmoe_simulation.report") / "page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(summary=summary, goals=goals, sections=sections, numbered=numbered)


def _unbroken(text: str) -> Markup:
    """Keep names such as CDR-SB and PerM-MoE on one line."""
    return Markup(NAME_WITH_HYPHEN.sub(r'<span class="name">\g<0></span>', str(escape(text))))


def _goals_table(goals: tuple[Goal, ...]) -> Table:
    verdicts = {True: "met", False: "not met", None: "undecided"}
    several = len({goal.regime for goal in goals}) > 1
    rows = [
        [
            Entry(goal.claim, goal.regime if several else ""),
            Entry(signed(goal.difference), interval(goal.lower, goal.upper)),
            Entry(verdicts[goal.met], is_strong=True),
        ]
        for goal in goals
    ]
    header = ["Goal set before the study", "RMSE difference", "Outcome"]
    return Table("Goals. Differences in CDR-SB points with 95% intervals; below zero is better.", header, rows)
