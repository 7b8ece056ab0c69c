"""Which recipe of each method a finished search chooses, by a rule that was written before any figure was known.

A search is an ordinary study whose methods are called METHOD.RECIPE and whose regimes are cohorts of development. A
recipe's figure on a cohort is its RMSE on the test visits, averaged over the combinations that its method predicts.
`CHOICE_RULE` is the rule in words, for the page; `chosen` is the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.errors import ConfigurationError
from permmoe_simulation.studies.study import StudyConfig, data_source

DEVELOPMENT_SEEDS = range(10, 20)
"""Seeds of the synthetic cohorts on which settings are chosen; no study reports one of them."""

SEPARATOR = "."
FEWEST_COHORTS = 2
"""A standard error over cohorts needs two."""

CHOICE_RULE = (
    "The best recipe is the one with the least mean over the cohorts. A recipe is as good as the best where it is "
    "behind by no more than one standard error of their paired differences over the cohorts. Of these, the one that "
    "stands first is chosen: a method's recipes stand in the order in which they are preferred, the one that sets "
    "least first. A recipe that did not finish on every cohort, with every combination that its method has there, "
    "is not chosen."
)

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """A recipe of a method and what it reached."""

    method: str
    recipe: str
    rmse: Float[Array, " cohort"]
    """Points, on each cohort in the study's order; NaN where it did not finish."""

    @property
    def name(self) -> str:
        """As the study's file calls it."""
        return f"{self.method}{SEPARATOR}{self.recipe}"

    @property
    def is_finished(self) -> bool:
        """Whether it has a figure on every cohort."""
        return bool(np.isfinite(self.rmse).all())

    @property
    def mean(self) -> float:
        """RMSE over the cohorts, points; NaN where it did not finish on all."""
        return float(self.rmse.mean())


def method_and_recipe(name: str) -> tuple[str, str]:
    """Both parts of METHOD.RECIPE. Raises ConfigurationError for another name."""
    method, separator, recipe = name.partition(SEPARATOR)
    if not (method and separator and recipe):
        raise ConfigurationError(f"method {name!r} of a search of recipes; call it METHOD{SEPARATOR}RECIPE")
    return method, recipe


def recipes_of(study: StudyConfig) -> dict[str, tuple[str, ...]]:
    """Each method's recipes in order. Raises ConfigurationError where a name is of another form."""
    found: dict[str, tuple[str, ...]] = {}
    for name in study.methods:
        method, recipe = method_and_recipe(name)
        found[method] = (*found.get(method, ()), recipe)
    return found


def require_fair_search(study: StudyConfig) -> None:
    """Raise ConfigurationError unless every method has as many recipes and every cohort is one of development."""
    budgets = {method: len(recipes) for method, recipes in recipes_of(study).items()}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{method} {n}" for method, n in budgets.items())
        raise ConfigurationError(f"study {study.name} gives its methods unequal numbers of recipes: {told}")
    if len(study.regimes) < FEWEST_COHORTS:
        raise ConfigurationError(f"study {study.name} has one cohort; a search needs {FEWEST_COHORTS} or more")
    for regime in study.regimes:
        cohort = data_source(study, regime).synthetic
        if cohort is None or cohort.seed not in DEVELOPMENT_SEEDS:
            raise ConfigurationError(
                f"regime {regime} of study {study.name} is no synthetic cohort of development; give it a seed from "
                f"{DEVELOPMENT_SEEDS[0]} to {DEVELOPMENT_SEEDS[-1]}"
            )


def candidates(study: StudyConfig, results: pd.DataFrame) -> dict[str, tuple[Candidate, ...]]:
    """Each method's candidates with their figures, from the rows of RESULTS.

    A cohort's figure is the mean over training seeds. Combinations that no recipe of a method has on a cohort, such as
    those of several modalities for unimodal models, do not count there.
    """
    rows = results[results["stratum"].eq("all") & results["seed"].astype(str).ne("all")]
    table = rows.set_index(["method", "regime", "seed", "combination"])["rmse"].unstack("combination")
    seeds = [str(seed) for seed in study.seeds]
    table.index = pd.MultiIndex.from_tuples([(method, regime, str(seed)) for method, regime, seed in table.index])
    found = {}
    for method, recipes in recipes_of(study).items():
        names = [f"{method}{SEPARATOR}{recipe}" for recipe in recipes]
        cells = pd.MultiIndex.from_product([names, list(study.regimes), seeds])
        shape = (len(names), len(study.regimes), len(seeds), -1)
        figures = np.asarray(table.reindex(cells), dtype=np.float64).reshape(shape)
        has_it = np.asarray(np.isfinite(figures).any(axis=0, keepdims=True))
        averaged = np.where(has_it.any(axis=-1), _mean_where(figures, has_it), nan).mean(axis=-1)
        found[method] = tuple(Candidate(method, recipe, averaged[i]) for i, recipe in enumerate(recipes))
    return found


def _mean_where(
    figures: Float[Array, "recipe cohort seed combination"], counts: Array
) -> Float[Array, "recipe cohort seed"]:
    """Means over the combinations that count; NaN where one of them is NaN."""
    summed = np.where(counts, figures, 0.0).sum(axis=-1)
    return np.asarray(summed / np.maximum(counts.sum(axis=-1), 1))


def behind(candidate: Candidate, best: Candidate) -> tuple[float, float]:
    """How much more a candidate errs than the best, and the standard error of that over cohorts; both in points."""
    differences = candidate.rmse - best.rmse
    return float(differences.mean()), float(differences.std(ddof=1)) / sqrt(len(differences))


def best_of(several: Sequence[Candidate]) -> Candidate | None:
    """The finished candidate with the least mean, the first of equal ones; None where none finished."""
    finished = [candidate for candidate in several if candidate.is_finished]
    return min(finished, key=lambda candidate: candidate.mean, default=None)


def chosen(several: Sequence[Candidate]) -> Candidate | None:
    """The choice by `CHOICE_RULE`; None where no candidate finished."""
    best = best_of(several)
    if best is None:
        return None
    return next(candidate for candidate in several if candidate.is_finished and _as_good(candidate, best))


def _as_good(candidate: Candidate, best: Candidate) -> bool:
    difference, error = behind(candidate, best)
    return difference <= error


def default_method(study: StudyConfig, choices: Mapping[str, Candidate | None]) -> Candidate | None:
    """The choice among the choices, by the same rule: what `permmoe train` trains where nothing else is asked for.

    It can be one model for all combinations, so unimodal models and references do not take part.
    """
    able = [choice for choice in choices.values() if choice and study.methods[choice.name].kind == "centralised"]
    return chosen(able)
