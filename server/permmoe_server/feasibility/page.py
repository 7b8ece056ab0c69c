"""A survey's page: which study could be run, in a table and in pictures. One file without a script or a request."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from math import sqrt

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from permmoe.federated.survey_facts import Facts
from permmoe_server.feasibility.pictures import MOST_BARS, bars, power_curves
from permmoe_server.feasibility.possible_studies import PossibleStudy, name_of, possible_studies, sentence
from permmoe_server.feasibility.power_file import PowerCurve, PowerCurves
from permmoe_server.status.page import STYLE
from permmoe_server.studies.survey_file import SurveyNumbers

SAID = 3
"""Studies that are said in a sentence above the table."""
OWN_STYLE = """
.all { fill: none; stroke: var(--size3); stroke-width: 1.2; } .known { fill: var(--size3); }
.wanted { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; fill: none; }
.study { stroke: var(--strong-rule); stroke-width: 1; fill: none; } .mark, .plot svg text { fill: var(--ink); }
.plot svg .axis { fill: var(--muted); } .said { font-size: 19px; margin: 0 0 .3em; }
@media print { main { padding: 0; } section { break-inside: avoid; } }
"""


def survey_page(numbers: SurveyNumbers, power: PowerCurves | None = None) -> str:
    """The whole page. Every text of the survey is escaped; only style and pictures, made here, are not."""
    facts, plan = Facts.of(numbers.plan), numbers.plan
    studies = possible_studies(numbers)
    with_modalities = [study for study in studies if study.modalities]
    curves = power.with_sites_near(len(numbers.sites)) if power else ()
    smallest = min((curve.range[0] for curve in curves), default=0)
    horizon = plan.horizon_months
    return _template().render(
        plan=plan,
        style=Markup(STYLE + OWN_STYLE),
        finished=f"{numbers.finished:%Y-%m-%d}",
        hospitals=len(numbers.sites),
        names=", ".join(numbers.sites),
        least=plan.federation.min_cell_count,
        patients=next((study.patients for study in studies if not study.modalities), 0),
        said=[sentence(study, numbers) for study in _worth_saying(with_modalities)],
        studies=[(study, name_of(study.modalities)) for study in studies],
        severities=[(n, facts.severity_name(n, plan.model.score.name)) for n in range(facts.n_severities)],
        has_outcome=facts.has_outcome,
        horizon="over the horizon of each hospital's own table" if horizon is None else f"{horizon:g} months later",
        is_secure=plan.federation.secure,
        bars=bars(with_modalities),
        n_bars=min(MOST_BARS, len(with_modalities)),
        n_possible=len(with_modalities),
        curves=curves,
        power_rows=[(name_of(s.modalities), s.usable, _shares(s, curves)) for s in studies if s.usable >= smallest],
        n_smaller=sum(study.usable < smallest for study in studies),
        smallest=smallest,
        picture=power_curves(curves, with_modalities) if curves else "",
        most_cohorts=power.most_cohorts if power else 0,
        give_or_take=round(98 / sqrt(power.most_cohorts)) if power else 0,
    )


def _worth_saying(studies: list[PossibleStudy]) -> list[PossibleStudy]:
    """Of each number of modalities the study with most patients, the largest numbers of modalities last."""
    best: dict[int, PossibleStudy] = {}
    for study in studies:
        best.setdefault(len(study.modalities), study)
    return [best[n] for n in sorted(best)][:SAID]


def _shares(study: PossibleStudy, curves: tuple[PowerCurve, ...]) -> list[str]:
    return [curve.in_words(study.usable) for curve in curves]


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("permmoe_server.feasibility") / "templates" / "survey.html"
    return environment.from_string(template.read_text(encoding="utf-8"))
