"""The page that says which recipe each method has, what it was chosen among, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from permmoe.config import parse_config
from permmoe_simulation.report.published_command import published_command
from permmoe_simulation.studies.recipe_choice import (
    CHOICE_RULE,
    Candidate,
    behind,
    best_of,
    candidates,
    chosen,
    default_method,
    require_fair_search,
)
from permmoe_simulation.studies.study import Method, StudyConfig
from permmoe_simulation.summary import Summary


def recipes_page(summary: Summary, results: pd.DataFrame, command: str, *, chooses_default: bool = True) -> str:
    """Markdown: the rule, a table for each method, and the default if it is chosen here. `results`: rows of RESULTS.

    Raises ConfigurationError for a study that is no fair search.
    """
    study = parse_config(yaml.safe_load(summary.configuration), StudyConfig, f"the settings of study {summary.study}")
    require_fair_search(study)
    found = candidates(study, results)
    choices = {method: chosen(several) for method, several in found.items()}
    budget = len(next(iter(found.values())))
    digests = ", ".join(f"{name} `{value[:8]}`" for name, value in sorted(summary.digests.items()))
    lines = [
        "# One recipe for everybody",
        "",
        f"{summary.data_label.upper()}: {study.description}",
        f"Each of {len(found)} methods has {budget} recipes, and each recipe one training on each of",
        f"{len(study.regimes)} cohorts for each seed of trainings and splits ({', '.join(map(str, study.seeds))}).",
        "What is chosen here is set in studies, and nothing is chosen on a cohort that is reported.",
        "",
        f"This page is made by `{command}`; do not edit it. Repeat the search: `{published_command(summary.command)}`.",
        f"{summary.date}; {digests}.",
        "",
        "**The rule**, written before the search ran. A recipe's figure is the RMSE on a cohort's test visits,",
        f"{study.outcome.unit}, averaged over the combinations that its method predicts. {CHOICE_RULE}",
        "",
        "Every recipe is laid over these settings:",
        "",
        "```yaml",
        yaml.safe_dump(_base(study), sort_keys=False, default_flow_style=None, width=110).rstrip(),
        "```",
    ]
    for method, several in found.items():
        lines += ["", f"## {method}", "", *_table(study, several, choices[method])]
    if chooses_default:
        lines += ["", "## The default", "", *_default(study, choices, default_method(study, choices))]
    if summary.failed_cells:
        lines += ["", f"{len(summary.failed_cells)} cells failed; their recipes are not chosen."]
    return "\n".join(lines) + "\n"


def _base(study: StudyConfig) -> dict[str, Any]:
    """What all recipes share, as far as it is not the package's own default."""
    shared = {"model": study.model, "train": study.train, "split": study.split}
    return {name: settings.model_dump(mode="json", exclude_defaults=True) for name, settings in shared.items()}


def _table(study: StudyConfig, several: Sequence[Candidate], choice: Candidate | None) -> list[str]:
    """A row a recipe, in the order of preference; the chosen one is bold."""
    best = best_of(several)
    lines = [
        f"| recipe | what it sets | {' | '.join(study.regimes)} | mean | behind the best (standard error) |",
        f"|---|---|{'---|' * len(study.regimes)}---|---|",
    ]
    for candidate in several:
        name = f"**{candidate.recipe}**, chosen" if candidate is choice else candidate.recipe
        figures = " | ".join(f"{value:.3f}" if value == value else "–" for value in candidate.rmse)
        mean = f"{candidate.mean:.3f}" if candidate.is_finished else "not finished"
        lines.append(
            f"| {name} | {_settings(study.methods[candidate.name])} | {figures} | {mean} | {_behind(candidate, best)} |"
        )
    if choice is None:
        lines += ["", "No recipe finished on every cohort, so none is chosen."]
    return lines


def _behind(candidate: Candidate, best: Candidate | None) -> str:
    if best is None or not candidate.is_finished:
        return "–"
    if candidate is best:
        return "the best"
    difference, error = behind(candidate, best)
    return f"{difference:+.3f} ({error:.3f})"


def _settings(method: Method) -> str:
    """What a recipe sets, on one line of YAML."""
    given = {name: value for name, value in (("model", method.model), ("train", method.train)) if value}
    if not given:
        return "–"
    return f"`{yaml.safe_dump(given, sort_keys=False, default_flow_style=True, width=10_000).strip()}`"


def _default(study: StudyConfig, choices: dict[str, Candidate | None], default: Candidate | None) -> list[str]:
    """The chosen recipes side by side, and which of them is the default."""
    lines = ["| method | recipe | mean | |", "|---|---|---|---|"]
    for method, choice in choices.items():
        if choice is None:
            lines.append(f"| {method} | none | – | |")
        else:
            note = "**the default**" if choice is default else _why_not_the_default(study.methods[choice.name])
            lines.append(f"| {method} | {choice.recipe} | {choice.mean:.3f} | {note} |")
    if default is None:
        return [*lines, "", "No model for all combinations finished, so there is no default."]
    return [
        *lines,
        "",
        "The same rule, applied to the chosen recipes of the methods that train one model for all combinations, in",
        f"this order, makes `{default.name}` the default of `permmoe train`, of `make demo` and of the federation",
        "demo.",
    ]


def _why_not_the_default(method: Method) -> str:
    """Why a method cannot be the default; empty where it can."""
    if method.kind == "centralised":
        return ""
    if method.kind == "unimodal":
        return "a model a modality; its mean is over single modalities and does not compare"
    return "not trained by `permmoe train`"
