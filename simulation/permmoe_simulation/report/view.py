"""A study with its names put in order: what every section of the report needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from permmoe.evaluation.intervals import FEWEST_SEEDS
from permmoe_simulation.report.content import Fold, Item, Text, count
from permmoe_simulation.report.figures import Row
from permmoe_simulation.report.files import Study
from permmoe_simulation.report.lookups import combinations_of, in_order, pooled
from permmoe_simulation.report.style import Look, method_looks
from permmoe_simulation.summary import Summary

MOST_ROWS = 31
"""Combinations that one figure can list (five modalities); beyond, figures show one row for each size."""


@dataclass(frozen=True)
class View:
    """`methods`, `regimes` and `combinations` are in the order in which every figure and table shows them."""

    study: Study
    summary: Summary
    pooled: pd.DataFrame
    methods: Sequence[str]
    regimes: Sequence[str]
    combinations: Sequence[str]
    labels: Mapping[str, str]
    looks: Mapping[str, Look]

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.summary.modalities

    @property
    def unit(self) -> str:
        """The unit of every RMSE and difference."""
        return self.summary.outcome.unit

    @property
    def intervals(self) -> str:
        """What the report's intervals are over, in words; why there are none with few seeds."""
        seeds = len(self.summary.seeds)
        if seeds < FEWEST_SEEDS:
            return (
                f"without intervals, since nothing is judged with {count(seeds, 'training seed')}, fewer than "
                f"{FEWEST_SEEDS}"
            )
        return f"with two-way 95% intervals over {seeds} training seeds, their splits, and the subjects"

    @property
    def are_combinations_few(self) -> bool:
        return len(self.combinations) <= MOST_ROWS

    def label(self, method: str) -> str:
        return self.labels.get(method, method)

    def size(self, combination: str) -> int:
        return combination.count("+") + 1

    @property
    def sizes(self) -> list[int]:
        return sorted({self.size(c) for c in self.combinations})

    def combination_rows(self, notes: Mapping[str, str] | None = None) -> list[Row]:
        """A row for each combination, in groups of equal size."""
        rows = []
        for j, name in enumerate(self.combinations):
            starts = j > 0 and self.size(name) != self.size(self.combinations[j - 1])
            rows.append(Row(name, frozenset(name.split("+")), (notes or {}).get(name, ""), starts))
        return rows

    def groups(self) -> list[list[str]]:
        """The combinations of each row of a figure: each by itself, or those of a size where they are too many."""
        if self.are_combinations_few:
            return [[c] for c in self.combinations]
        return [[c for c in self.combinations if self.size(c) == size] for size in self.sizes]

    def size_rows(self) -> list[Row]:
        """One row for each number of modalities, where combinations are too many to list."""
        totals = {size: sum(self.size(c) == size for c in self.combinations) for size in self.sizes}
        return [
            Row(f"{size} of {len(self.modalities)} modalities ({total} combination{'s' * (total > 1)})")
            for size, total in totals.items()
        ]


def view_of(study: Study) -> View:
    """Methods in the summary's order, then any others that the results name."""
    summary, rows = study.summary, pooled(study.results)
    methods = in_order(study.results["method"], summary.methods)
    kinds = {name: method.kind for name, method in summary.methods.items()}
    looks = method_looks({name: kinds.get(name, "federated") for name in in_order([*kinds, *methods])})
    return View(
        study=study,
        summary=summary,
        pooled=rows,
        methods=methods,
        regimes=in_order(study.results["regime"]),
        combinations=combinations_of(summary.modalities, study.results["combination"]),
        labels={name: method.label for name, method in summary.methods.items()},
        looks=looks,
    )


def by_regime(view: View, build: Callable[[str], Sequence[Item]]) -> list[Item]:
    """The first regime's items, and below them those of each other regime, folded; named where there are several."""
    if len(view.regimes) == 1:
        return list(build(view.regimes[0]))
    first, *others = view.regimes
    return [
        Text(f"Missingness regime: {first}. The other regimes are folded below."),
        *build(first),
        *(Fold(f"Regime: {regime}", build(regime)) for regime in others),
    ]


def spread(total: int) -> list[float]:
    """Offsets that set methods apart within one row."""
    return [0.0] if total == 1 else [0.72 * (j / (total - 1) - 0.5) * min(1.0, 0.3 + 0.2 * total) for j in range(total)]
