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
from permmoe_simulation.report.axis import axis_section, growth_section
from permmoe_simulation.report.content import (
    Entry,
    Fold,
    Item,
    Plot,
    Section,
    Table,
    interval,
    signed,
    table_digits,
)
from permmoe_simulation.report.costs import costs_section
from permmoe_simulation.report.differences import differences_section
from permmoe_simulation.report.experts import experts_section
from permmoe_simulation.report.files import Goal, Study, Summary
from permmoe_simulation.report.gap import gap_section
from permmoe_simulation.report.privacy import privacy_section
from permmoe_simulation.report.published import published_section
from permmoe_simulation.report.ranking import ranking_section
from permmoe_simulation.report.style import with_mark, with_prefix
from permmoe_simulation.report.view import view_of
from permmoe_simulation.report.workings import (
    gaps_section,
    images_section,
    methods_section,
    repeat_section,
    sites_section,
)

SECTIONS = (
    published_section,
    axis_section,
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
    growth_section,
    costs_section,
    privacy_section,
    images_section,
    gaps_section,
    repeat_section,
)
"""The answer first, then what supports it, then how to repeat it."""

MOST_GOALS = 6
"""More are folded away."""

NAME_WITH_HYPHEN = re.compile(r"\b[A-Z]\w{1,7}-[A-Z]\w{1,7}\b")


def page(study: Study) -> str:
    """The page of a study that compares methods."""
    view = view_of(study)
    goals = _goals(study.summary) if study.summary.goals else None
    return rendered(study.summary, [section for build in SECTIONS if (section := build(view))], goals)


def rendered(summary: Summary, sections: Sequence[Section], goals: Item | None = None) -> str:
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


def _goals(summary: Summary) -> Item:
    """The table, on request where it would push everything else off the first screen."""
    table = _goals_table(summary.goals, summary.outcome.unit)
    if len(table.rows) <= MOST_GOALS:
        return table
    return Fold(f"All {len(table.rows)} goals and what came of them", [table])


def _goals_table(goals: tuple[Goal, ...], unit: str) -> Table:
    verdicts = {True: "met", False: "not met", None: "undecided"}
    several = len({goal.regime for goal in goals}) > 1
    digits = table_digits(g.difference for g in goals if g.difference is not None)
    rows = [
        [
            Entry(f"{goal.claim}, {goal.regime}" if several and goal.regime else goal.claim),
            Entry(signed(goal.difference, digits), interval(goal.lower, goal.upper, digits)),
            Entry(verdicts[goal.met], is_strong=True),
        ]
        for goal in goals
    ]
    header = ["Goal set before the study", "RMSE difference", "Outcome"]
    return Table(f"Goals. Differences in {unit} with 95% intervals; below zero is better.", header, rows)
