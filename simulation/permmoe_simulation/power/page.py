"""The page of a power study: how many patients each claim needs, the curves, and every figure with what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from permmoe.evaluation.intervals import FEWEST_SUBJECTS
from permmoe_simulation.power.curves import WANTED, patients_needed
from permmoe_simulation.power.figure import Curve, Panel, power_figure
from permmoe_simulation.power.plan import PowerConfig
from permmoe_simulation.power.truth import Truth
from permmoe_simulation.power.verdicts import CLAIM, ClaimKey
from permmoe_simulation.report.content import count, interval, listed, number, signed
from permmoe_simulation.report.published_command import published_command
from permmoe_simulation.report.style import standalone, with_mark
from permmoe_simulation.studies.study import MEAN, StudyConfig

NULLS = ("not lower", "no difference")
"""What is true where nothing is to be found."""


@dataclass(frozen=True)
class PowerFindings:
    """All that the page shows."""

    plan: PowerConfig
    study: StudyConfig
    """That of any cohort."""
    power: pd.DataFrame
    """Rows of POWER."""
    truths: Mapping[ClaimKey, Truth]
    failed: Sequence[str]
    """A line for each cell that did not finish."""


@dataclass(frozen=True)
class RunOfPage:
    """How the page was made."""

    command: str
    date: str
    versions: Mapping[str, str]
    digests: Mapping[str, str]


def power_svg(found: PowerFindings) -> str:
    """The curves as an SVG document."""
    panels = []
    for key in _keys(found.power):
        rows = _rows(found.power, key)
        curves = []
        for sites in sorted(rows["sites"].unique()):
            own = rows[rows["sites"] == sites].sort_values("patients")
            values = [own[name].tolist() for name in ("patients", "share", "share_from", "share_to")]
            curves.append(Curve(int(sites), *values))
        title = "\n".join([f"{key[0]}, {_combination(key[3])}", *_sides(found.study, key)])
        panels.append(Panel(title, curves, rows["truth"].iloc[0] in NULLS))
    return standalone(with_mark(power_figure(panels), "synthetic data"))


def power_page(found: PowerFindings, run: RunOfPage, figure: str) -> str:
    """Markdown. `figure` is the file of the curves, from the page's folder."""
    plan, study = found.plan, found.study
    tests = len(study.claims) * len(study.regimes)
    digests = ", ".join(f"{name} `{value[:8]}`" for name, value in sorted(run.digests.items()))
    lines = [
        "# How many patients a study needs",
        "",
        f"SYNTHETIC DATA: {plan.description}",
        "",
        f"This page is made by `{published_command(run.command)}`; do not edit it. {run.date}; {digests}; "
        f"{', '.join(f'{name} {version}' for name, version in run.versions.items())}.",
        "",
        f"At each point {count(plan.cohorts, 'cohort')} (seeds {plan.seeds[0]} to {plan.seeds[-1]}) were planted, and "
        f"each was a study with training seeds {listed([str(seed) for seed in study.seeds])}. **Found** is what that "
        f"study's own report calls beyond chance: its {count(tests, 'test')} ({count(len(study.claims), 'claim')}, "
        f"{count(len(study.regimes), 'regime')}) corrected together by Holm's method; a method "
        "against its own second training is corrected over regimes. Patients are those of all "
        f"hospitals together; {_percent(study.split.test)} of them are tested in each split, and "
        f"{_percent(1 - study.split.test - study.split.validation)} train. Regimes of study {study.name}:",
        "",
        *(f"- `{regime}`: {settings.description}" for regime, settings in study.regimes.items()),
        "",
        f"## Patients with which {_percent(WANTED)} of cohorts find it",
        "",
        *_needed_table(found),
        "",
        f"![Share of cohorts in which each claim was found, against patients]({figure})",
        "",
        "Bars are Wilson's 95% intervals of a share of few cohorts. The dotted line is at "
        f"{_percent(WANTED)}, or at 5% where nothing is to be found. A number of patients is read off the line between "
        "two points, over the logarithm, where the line reaches it for good; it has no interval, and is as uncertain "
        "as the bars beside it.",
        "",
        "## What is true, and how often it was said",
        "",
        "The truth is read off the planted design before anything is trained: *lower* means that the method can know "
        "what its reference cannot, by so many points with patients without number; *not lower* and *no difference* "
        "that finding one is false; *not known* that the design does not say which of the two is better with few "
        "patients, so that its share is stated and not judged.",
        "",
        *_table(found),
        "",
        *_false_finds(found.power),
    ]
    if found.failed:
        lines += ["", f"{count(len(found.failed), 'cell')} did not finish: {'; '.join(found.failed)}."]
    return "\n".join(lines) + "\n"


def _keys(power: pd.DataFrame) -> list[ClaimKey]:
    return [tuple(key) for key in power[list(CLAIM)].drop_duplicates().itertuples(index=False)]


def _rows(power: pd.DataFrame, key: ClaimKey) -> pd.DataFrame:
    return power[(power[list(CLAIM)] == list(key)).all(axis=1)].sort_values(["sites", "patients"])


def _sides(study: StudyConfig, key: ClaimKey) -> tuple[str, str]:
    """The method, and `against` its reference."""
    labels = {**study.labels, study.name_trained_again: "itself, trained again"}
    return labels[key[1]], f"against {labels[key[2]]}"


def _labels(study: StudyConfig, key: ClaimKey) -> str:
    return " ".join(_sides(study, key))


def _combination(name: str) -> str:
    return "mean of combinations" if name == MEAN else f"{name} alone" if "+" not in name else name


def _needed_table(found: PowerFindings) -> list[str]:
    """A row a claim and regime in which something may be found, a column a number of hospitals."""
    sites = sorted(int(n) for n in found.power["sites"].unique())
    lines = [
        f"| regime | claim | combination | what is true | {' | '.join(count(n, 'hospital') for n in sites)} |",
        f"|---|---|---|---|{'---|' * len(sites)}",
    ]
    for key in _keys(found.power):
        rows = _rows(found.power, key)
        truth = found.truths[key]
        if truth.expected in NULLS:
            continue
        needed = []
        for n in sites:
            own = rows[rows["sites"] == n]
            needed.append(patients_needed(own["patients"].tolist(), own["share"].tolist()).in_words())
        lines.append(
            f"| {key[0]} | {_labels(found.study, key)} | {_combination(key[3])} | {_truth_in_words(truth)} | "
            f"{' | '.join(needed)} |"
        )
    return lines


def _truth_in_words(truth: Truth) -> str:
    return f"{truth.expected} ({signed(truth.difference)} points)" if truth.difference < 0 else truth.expected


def _table(found: PowerFindings) -> list[str]:
    lines = [
        "| regime | claim | combination | patients | hospitals | found | share of cohorts | mean difference, points |"
        " what is true |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in _keys(found.power):
        for row in _rows(found.power, key).to_dict("records"):
            judged = int(row["cohorts"])
            said = f"{int(row['found'])} of {judged}" if judged else "not judged"
            aside = [f"{int(row['higher'])} higher"] if row["higher"] and row["truth"] != "no difference" else []
            aside += [f"{int(row['not_judged'])} not judged"] if row["not_judged"] and judged else []
            share = f"{_percent(row['share'])} ({interval(100 * row['share_from'], 100 * row['share_to'], 0)})"
            lines.append(
                f"| {key[0]} | {_labels(found.study, key)} | {_combination(key[3])} | {int(row['patients']):,} | "
                f"{int(row['sites'])} | {'; '.join([said, *aside])} | {share if judged else '–'} | "
                f"{signed(row['mean_difference'], 3)} | {_truth_in_words(found.truths[key])} |"
            )
    reasons = dict.fromkeys(f"*{truth.expected}*: {truth.why}" for truth in found.truths.values())
    lines += ["", *(f"- {reason}." for reason in reasons)]
    if found.power["not_judged"].any():
        lines += ["", f"A cohort is not judged where a method did not finish or fewer than {FEWEST_SUBJECTS} patients "
                      "were tested; shares are of the others."]  # fmt: skip
    return lines


def _false_finds(power: pd.DataFrame) -> list[str]:
    """How often something false was said, over all points."""
    known = power[power["false_finds"].notna()]
    nulls = known[known["truth"].isin(NULLS)]
    sentences = []
    for rows, what in ((nulls, "Where nothing was to be found"), (known.drop(nulls.index), "Where a side was planted")):
        total = int(rows["cohorts"].sum())
        if total:
            word = "a difference was called" if what.endswith("found") else "the wrong side was called"
            sentences.append(f"{what}, {word} in {int(rows['false_finds'].sum())} of {total:,} verdicts.")
    return [" ".join([*sentences, "Verdicts of one cohort are not independent of each other."])] if sentences else []


def _percent(share: float) -> str:
    return f"{number(100 * share, 0)}%"
