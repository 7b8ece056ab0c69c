"""From finished cells to the tables of a study: results, paired comparisons and what follows from them, activation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from permmoe.evaluation.combinations import STRATA, error_sums
from permmoe.evaluation.intervals import (
    Difference,
    paired_difference,
    paired_resamples,
    resampling_weights,
    rmse_interval,
    share_of_gap,
)
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.cell import read_predictions

Array = np.ndarray


@dataclass(frozen=True)
class FinishedCell:
    """Where a cell's files are, and what the tables call it."""

    method: str
    regime: str
    seed: int
    folder: Path

    @property
    def key(self) -> dict[str, Any]:
        """The columns that name it in every table."""
        return {"method": self.method, "regime": self.regime, "seed": self.seed}


@dataclass(frozen=True)
class Errors:
    """Test errors of one method on one regime over all seeds; NaN where a seed did not test a subject."""

    prediction: Float[Array, "seed subject combination"]
    target: Float[Array, "seed subject"]
    baseline: Float[Array, "seed subject"]
    site: Shaped[Array, "seed subject"]
    """Where a seed's partition put the subject; empty where the seed did not test it."""

    def squared(self, combination: int, stratum: str) -> Float[Array, "seed subject"]:
        """Squared errors inside a stratum, squared points."""
        inside = np.stack([STRATA[stratum](b, t) for b, t in zip(self.baseline, self.target, strict=True)])
        error = (self.prediction[:, :, combination] - self.target) ** 2
        return np.where(inside, error, np.nan)


class StudyErrors:
    """All methods' errors on common axes, with one set of bootstrap resamples over subjects for all of them."""

    def __init__(
        self,
        cells: Sequence[FinishedCell],
        names: Sequence[str],
        seeds: Sequence[int],
        resamples: int,
        strata: Sequence[str] = tuple(STRATA),
    ):
        self.combinations = [combination_name(c) for c in all_combinations(names)]
        self.seeds = list(seeds)
        self.strata = list(strata)
        tables = {(c.method, c.regime, c.seed): read_predictions(c.folder) for c in cells}
        subjects = sorted({s for table in tables.values() for s in table.subject})
        self.weights = resampling_weights(len(subjects), resamples, seed=0)
        self.by_method: dict[tuple[str, str], Errors] = {}
        for method, regime in dict.fromkeys((c.method, c.regime) for c in cells):
            frames = []
            for seed in self.seeds:
                table = tables.get((method, regime, seed))
                frames.append(None if table is None else table.set_index("subject").reindex(subjects))
            self.by_method[method, regime] = self._stack(frames, len(subjects))

    def _stack(self, frames: Sequence[pd.DataFrame | None], n: int) -> Errors:
        def column(frame: pd.DataFrame | None, name: str) -> Array:
            known = frame is not None and name in frame
            return np.asarray(frame[name], dtype=np.float64) if known and frame is not None else np.full(n, np.nan)

        prediction = np.stack([np.stack([column(f, c) for c in self.combinations], axis=1) for f in frames])
        target = np.stack([column(f, "target") for f in frames])
        sites = [np.full(n, "") if f is None else np.asarray(f["site"].fillna(""), dtype=np.str_) for f in frames]
        return Errors(prediction, target, np.stack([column(f, "baseline") for f in frames]), np.stack(sites))

    def results(self) -> pd.DataFrame:
        """A row a method, regime, seed (and `all`: averaged over seeds), combination and stratum."""
        rows: list[dict[str, Any]] = []
        for (method, regime), errors in self.by_method.items():
            for stratum in self.strata:
                for j, combination in enumerate(self.combinations):
                    squared = errors.squared(j, stratum)
                    key = {"method": method, "regime": regime, "combination": combination, "stratum": stratum}
                    per_seed = [self._seed_row(errors, squared, i, j) for i in range(len(self.seeds))]
                    rows += [{**key, **row} for row in [*per_seed, self._mean_row(per_seed, squared)]]
        first = ["method", "regime", "seed", "combination", "stratum", "n", "rmse", "mae", "r2", "lower", "upper"]
        return pd.DataFrame(rows)[first]

    def _seed_row(self, errors: Errors, squared: Array, i: int, j: int) -> dict[str, Any]:
        inside = np.where(np.isnan(squared[i]), np.nan, errors.prediction[i, :, j])
        sums = error_sums(inside, errors.target[i])
        interval = rmse_interval(squared[i : i + 1], self.weights)
        return {"seed": self.seeds[i], "n": sums.n, "rmse": sums.rmse, "mae": sums.mae, "r2": sums.r2,
                "lower": interval.lower, "upper": interval.upper}  # fmt: skip

    def _mean_row(self, per_seed: Sequence[Mapping[str, Any]], squared: Array) -> dict[str, Any]:
        interval = rmse_interval(squared, self.weights)
        used = [row for row in per_seed if row["n"]]
        means = {key: float(np.mean([row[key] for row in used])) if used else np.nan for key in ("mae", "r2")}
        return {"seed": "all", "n": interval.n, "rmse": interval.estimate, **means,
                "lower": interval.lower, "upper": interval.upper}  # fmt: skip

    def by_site(self) -> pd.DataFrame:
        """A row a method, regime and site: its test visits, and RMSE averaged over combinations and seeds."""
        rows: list[dict[str, Any]] = []
        for (method, regime), errors in self.by_method.items():
            squared = np.stack([errors.squared(j, "all") for j in range(len(self.combinations))])
            for site in sorted(set(errors.site.ravel()) - {""}):
                here = np.where(errors.site == site, squared, np.nan)
                known = ~np.isnan(here)
                n = known.sum(2)
                means = np.where(known, here, 0.0).sum(2)[n > 0] / n[n > 0]
                visits = int(known.any(0).sum())
                rows.append({"method": method, "regime": regime, "site": site, "n": visits,
                             "rmse": float(np.sqrt(means).mean()) if len(means) else np.nan})  # fmt: skip
        return pd.DataFrame(rows)

    def gaps(self, lower: str, upper: str) -> pd.DataFrame:
        """Which share of the way from one method to another every method gets, by regime and combination."""
        rows = []
        for (method, regime), errors in self.by_method.items():
            if (lower, regime) not in self.by_method or (upper, regime) not in self.by_method:
                continue
            low, high = self.by_method[lower, regime], self.by_method[upper, regime]
            for combination in ["mean", *self.combinations]:
                chosen = self._columns(combination)
                own, least, most = ([e.squared(j, "all") for j in chosen] for e in (errors, low, high))
                share = share_of_gap(own, least, most, self.weights)
                rows.append({"method": method, "regime": regime, "combination": combination, "n": share.n,
                             "share": share.estimate, "lower": share.lower, "upper": share.upper})  # fmt: skip
        return pd.DataFrame(rows)

    def difference(self, method: str, reference: str, regime: str, combination: str, stratum: str) -> Difference:
        """Paired difference in RMSE; `combination` may be `mean`."""
        chosen = self._columns(combination)
        a, b = self.by_method[method, regime], self.by_method[reference, regime]
        return paired_difference(
            [a.squared(j, stratum) for j in chosen], [b.squared(j, stratum) for j in chosen], self.weights
        )

    def comparisons(self, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """Paired differences of every pair whose methods both finished, for each combination and their mean."""
        rows = []
        for (method, reference, regime), stratum in product(self._finished(pairs), self.strata):
            for combination in ["mean", *self.combinations]:
                d = self.difference(method, reference, regime, combination, stratum)
                rows.append(
                    {"method": method, "reference": reference, "regime": regime, "combination": combination,
                     "stratum": stratum, "n": d.n, "difference": d.estimate, "lower": d.lower,
                     "upper": d.upper, "p_value": d.p_value, "effect_size": d.effect_size}
                )  # fmt: skip
        return _holm(pd.DataFrame(rows))

    def percent_changes(self, pairs: Sequence[tuple[str, str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """How many percent a method's RMSE lies above its reference's on the same subjects; and in how many
        combinations below, of those that have a subject.

        `mean` is the mean of the combinations' percentages. All intervals are from the same resamples.
        """
        changes, wins = [], []
        for (method, reference, regime), stratum in product(self._finished(pairs), self.strata):
            key = {"method": method, "reference": reference, "regime": regime, "stratum": stratum}
            a, b = self.by_method[method, regime], self.by_method[reference, regime]
            found = [self._percent(a.squared(j, stratum), b.squared(j, stratum))
                     for j in range(len(self.combinations))]  # fmt: skip
            known = [one for one in found if one is not None]
            for combination, one in zip(["mean", *self.combinations], [_mean_of(known), *found], strict=True):
                figures = {"n": 0, "percent": np.nan, "lower": np.nan, "upper": np.nan}
                if one is not None:
                    figures = {"n": int(one.tested.sum()), "percent": one.estimate, **_bounds(one.resampled)}
                changes.append({**key, "combination": combination, **figures})
            won = np.stack([one.resampled < 0 for one in known]).sum(0) if known else np.zeros(1)
            wins.append({**key, "combinations": len(known), "wins": sum(one.estimate < 0 for one in known),
                         **_bounds(won.astype(np.float64))})  # fmt: skip
        return pd.DataFrame(changes), pd.DataFrame(wins)

    def _percent(self, method: Array, reference: Array) -> Resampled | None:
        both = ~np.isnan(method) & ~np.isnan(reference)
        one, other = (_rmse([np.where(both, e, np.nan)], self.weights) for e in (method, reference))
        if one is None or other is None or other.estimate == 0:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled = 100 * (one.resampled / other.resampled - 1)
        return Resampled(resampled, 100 * (one.estimate / other.estimate - 1), both.any(0))

    def drift(self) -> pd.DataFrame:
        """RMSE with a combination − RMSE with all modalities, on the subjects who have all of them.

        What a method loses when the others are withheld: their information, and what stands in for it misleads.
        """
        rows = []
        for (method, regime), errors in self.by_method.items():
            squared = [errors.squared(j, "all") for j in range(len(self.combinations))]
            *partial, full = squared
            if not (~np.isnan(full)).any():
                continue  # it has no prediction from all modalities
            for combination in ["mean", *self.combinations[:-1]]:
                chosen = [partial[j] for j in self._columns(combination) if j < len(partial)]
                d = paired_difference(chosen, [full] * len(chosen), self.weights)
                rows.append({"method": method, "regime": regime, "combination": combination, "n": d.n,
                             "difference": d.estimate, "lower": d.lower, "upper": d.upper})  # fmt: skip
        return pd.DataFrame(rows)

    def along_axis(self, values: Mapping[str, float], combinations: Sequence[str]) -> pd.DataFrame:
        """RMSE of every method by the value of its regime, for each of the combinations; one may be `mean`."""
        rows = []
        for (method, regime), errors in self.by_method.items():
            for combination in combinations:
                found = _rmse([errors.squared(j, "all") for j in self._columns(combination)], self.weights)
                if found is not None:
                    rows.append({"method": method, "regime": regime, "value": values[regime],
                                 "combination": combination, "n": int(found.tested.sum()), "rmse": found.estimate,
                                 **_bounds(found.resampled)})  # fmt: skip
        return pd.DataFrame(rows)

    def trends(
        self, values: Mapping[str, float], pairs: Sequence[tuple[str, str]], combinations: Sequence[str]
    ) -> pd.DataFrame:
        """Slope of each pair's paired difference over the axis, by least squares: RMSE for each unit of the axis, or
        for each tenfold of it where it is logarithmic. Pairs that did not finish everywhere have none."""
        at = np.array(list(values.values()))
        position = np.log10(at) if axis_scale(list(at)) == "log" else at
        centred = position - position.mean()
        rows = []
        for (method, reference), combination in product(pairs, combinations):
            found = []
            for regime in values:
                if (method, regime) in self.by_method and (reference, regime) in self.by_method:
                    a, b = self.by_method[method, regime], self.by_method[reference, regime]
                    chosen = self._columns(combination)
                    found.append(paired_resamples([a.squared(j, "all") for j in chosen],
                                                  [b.squared(j, "all") for j in chosen], self.weights))  # fmt: skip
            known = [one for one in found if one is not None]
            if len(known) < len(values):
                continue
            slope = centred / (centred**2).sum()
            rows.append({"method": method, "reference": reference, "combination": combination,
                         "n": min(n for _, _, n in known), "slope": float(slope @ [e for _, e, _ in known]),
                         **_bounds(slope @ np.stack([r for r, _, _ in known]))})  # fmt: skip
        return pd.DataFrame(rows)

    def _columns(self, combination: str) -> list[int]:
        all_of_them = list(range(len(self.combinations)))
        return all_of_them if combination == "mean" else [self.combinations.index(combination)]

    def _finished(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """(method, reference, regime) wherever both finished."""
        regimes = dict.fromkeys(regime for _, regime in self.by_method)
        return [(a, b, r) for a, b in pairs for r in regimes if {(a, r), (b, r)} <= self.by_method.keys()]


@dataclass(frozen=True)
class Resampled:
    """A figure with what it comes to in every bootstrap resample, and who was tested for it."""

    resampled: Float[Array, " resample"]
    estimate: float
    tested: Bool[Array, " subject"]


def _rmse(
    squared: Sequence[Float[Array, "seed subject"]], weights: Float[Array, "resample subject"]
) -> Resampled | None:
    """RMSE averaged over seeds and over the combinations that have a subject: its difference from no error at all."""
    found = paired_resamples(squared, [np.where(np.isnan(e), np.nan, 0.0) for e in squared], weights)
    if found is None:
        return None
    return Resampled(found[0], found[1], np.any([~np.isnan(e) for e in squared], axis=(0, 1)))


def _mean_of(figures: Sequence[Resampled]) -> Resampled | None:
    """Of each resample over the figures that it has."""
    if not figures:
        return None
    table = np.stack([one.resampled for one in figures])
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        resampled = np.where(known, table, 0.0).sum(0) / known.sum(0)
    tested = np.any([one.tested for one in figures], axis=0)
    return Resampled(resampled, float(np.mean([one.estimate for one in figures])), tested)


def _bounds(resampled: Float[Array, " resample"]) -> dict[str, float]:
    """The ends of a 95% interval; resamples without a subject are no part of it."""
    lower, upper = np.nanpercentile(resampled, [2.5, 97.5])
    return {"lower": float(lower), "upper": float(upper)}


def axis_scale(values: Sequence[float]) -> Literal["linear", "log"]:
    """How an axis is drawn and fitted: logarithmic where its values span more than a factor of twenty."""
    return "log" if min(values) > 0 and max(values) / min(values) > 20 else "linear"


def _holm(comparisons: pd.DataFrame) -> pd.DataFrame:
    """With `p_holm`: Holm's correction over the combinations of one pair, regime and stratum; their mean is no part."""
    if not len(comparisons):
        return comparisons
    # Seconds to import, with SciPy's statistics; workers do without.
    from statsmodels.stats.multitest import multipletests

    corrected = comparisons["p_value"].copy()
    single = comparisons[comparisons.combination.ne("mean") & comparisons.p_value.notna()]
    for _, family in single.groupby(["method", "reference", "regime", "stratum"]):
        corrected[family.index] = multipletests(family["p_value"], method="holm")[1]
    return comparisons.assign(p_holm=corrected)


def gather(cells: Sequence[FinishedCell], file: str) -> pd.DataFrame:
    """One table from the cells' CSV files of that name, led by method, regime and seed; empty where none has it."""
    frames = [
        pd.read_csv(cell.folder / file, dtype={"site": str}).assign(**cell.key)
        for cell in cells
        if (cell.folder / file).exists()
    ]
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True)
    first = ["method", "regime", "seed"]
    return table[first + [c for c in table.columns if c not in first]]


def cell_costs(cells: Sequence[FinishedCell]) -> pd.DataFrame:
    """Seconds of each cell and, where its card tells, the peak memory of its process in MB."""
    cards = [json.loads((cell.folder / "card.json").read_text()) for cell in cells]
    wanted = ("seconds", "peak_memory_mb")
    return pd.DataFrame(
        [{**cell.key, **{k: card[k] for k in wanted if k in card}} for cell, card in zip(cells, cards, strict=True)]
    )


def activation_tables(cells: Sequence[FinishedCell], names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Expert activation by combination, modality and expert; and load balance by cell."""
    shares, balance = [], []
    combinations = [combination_name(c) for c in all_combinations(names)]
    for cell in cells:
        if not (cell.folder / "activation.npz").exists():
            continue
        with np.load(cell.folder / "activation.npz") as saved:
            share = saved["share"]
            own = _own_names(cell)
            if list(own) == list(names):
                index = pd.MultiIndex.from_product(
                    [combinations, names, range(share.shape[2])], names=["combination", "modality", "expert"]
                )
                table = pd.DataFrame({"share": share.ravel()}, index=index).dropna().reset_index()
                shares.append(pd.DataFrame([cell.key] * len(table)).join(table))
            balance.append(
                {**cell.key, "load_cv": float(saved["load_cv"]), "collapsed_experts": int(saved["collapsed"])}
            )
    return (pd.concat(shares, ignore_index=True) if shares else pd.DataFrame()), pd.DataFrame(balance)


def _own_names(cell: FinishedCell) -> list[str]:
    card = json.loads((cell.folder / "card.json").read_text())
    return [m["name"] for m in card["cell"]["model"]["modalities"]]
