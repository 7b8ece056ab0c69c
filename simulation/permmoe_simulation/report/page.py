"""Put the sections together and write them as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import count

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from permmoe_simulation.report.accuracy import NUMBERS, RMSE
from permmoe_simulation.report.again import AGAIN_SECTION
from permmoe_simulation.report.axis import AXIS
from permmoe_simulation.report.cohorts import COHORTS_SECTION
from permmoe_simulation.report.content import Entry, Fold, Item, Plot, Section, Table, interval, signed, table_digits
from permmoe_simulation.report.costs import ROUND_COSTS
from permmoe_simulation.report.coverage import COVERAGE_SECTION
from permmoe_simulation.report.differences import DIFFERENCES
from permmoe_simulation.report.experts import EXPERTS
from permmoe_simulation.report.files import Study
from permmoe_simulation.report.forgetting import FORGETTING_SECTION
from permmoe_simulation.report.gap_closed import GAP_CLOSED
from permmoe_simulation.report.growth import GROWTH
from permmoe_simulation.report.images import IMAGES
from permmoe_simulation.report.ladder import LADDER_SECTION
from permmoe_simulation.report.learning import LEARNING_SECTION
from permmoe_simulation.report.newcomers import NEWCOMERS_SECTION
from permmoe_simulation.report.privacy import PRIVACY_SECTION
from permmoe_simulation.report.published import PUBLISHED
from permmoe_simulation.report.ranking import RANKING
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.sites import SITES_SECTION
from permmoe_simulation.report.slow_sites import SLOW_SITES
from permmoe_simulation.report.strata import STRATA_SECTION
from permmoe_simulation.report.style import with_mark, with_prefix
from permmoe_simulation.report.the_run import FAILURES, METHODS, REPEAT
from permmoe_simulation.report.view import view_of
from permmoe_simulation.summary import Goal, Summary

SECTIONS: tuple[ReportSection, ...] = (
    PUBLISHED,
    AXIS,
    RMSE,
    METHODS,
    LADDER_SECTION,
    COHORTS_SECTION,
    DIFFERENCES,
    AGAIN_SECTION,
    RANKING,
    GAP_CLOSED,
    NUMBERS,
    STRATA_SECTION,
    COVERAGE_SECTION,
    NEWCOMERS_SECTION,
    FORGETTING_SECTION,
    LEARNING_SECTION,
    SLOW_SITES,
    SITES_SECTION,
    EXPERTS,
    GROWTH,
    ROUND_COSTS,
    PRIVACY_SECTION,
    IMAGES,
    FAILURES,
    REPEAT,
)
"""The answer first, then what supports it, then how to repeat it."""

MOST_GOALS = 6
"""More are folded away."""

NAME_WITH_HYPHEN = re.compile(r"\b[A-Z]\w{1,7}-[A-Z]\w{1,7}\b")


def page(study: Study, sections: Sequence[ReportSection] = SECTIONS) -> str:
    """The page of a study that compares methods."""
    view = view_of(study)
    goals = _goals(study.summary) if study.summary.goals else None
    return rendered(study.summary, [shown for section in sections if (shown := section.show(view))], goals)


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
            Entry(verdicts[goal.met], goal.why_undecided, is_strong=True),
        ]
        for goal in goals
    ]
    header = ["Goal set before the study", "RMSE difference", "Outcome"]
    return Table(
        f"Goals. Differences in {unit} with 95% intervals over training seeds and subjects; below zero is better. A "
        "goal is met where that is beyond chance, after Holm's correction over all goals and regimes.",
        header,
        rows,
    )
