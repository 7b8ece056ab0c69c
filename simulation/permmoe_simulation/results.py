"""From finished cells to the tables of a study: results, paired comparisons, learning, rounds, activation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from statsmodels.stats.multitest import multipletests

from permmoe.evaluation import STRATA, error_sums
from permmoe.intervals import Difference, paired_difference, resampling_weights, rmse_interval, share_of_gap
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.cell import read_predictions
from permmoe_simulation.study import Claim

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

    def __init__(self, cells: Sequence[FinishedCell], names: Sequence[str], seeds: Sequence[int], resamples: int):
        self.combinations = [combination_name(c) for c in all_combinations(names)]
        self.seeds = list(seeds)
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
            for stratum in STRATA:
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
                chosen = (
                    range(len(self.combinations)) if combination == "mean" else [self.combinations.index(combination)]
                )
                own, least, most = ([e.squared(j, "all") for j in chosen] for e in (errors, low, high))
                share = share_of_gap(own, least, most, self.weights)
                rows.append({"method": method, "regime": regime, "combination": combination, "n": share.n,
                             "share": share.estimate, "lower": share.lower, "upper": share.upper})  # fmt: skip
        return pd.DataFrame(rows)

    def difference(self, method: str, reference: str, regime: str, combination: str, stratum: str) -> Difference:
        """Paired difference in RMSE; `combination` may be `mean`."""
        chosen = range(len(self.combinations)) if combination == "mean" else [self.combinations.index(combination)]
        a, b = self.by_method[method, regime], self.by_method[reference, regime]
        return paired_difference(
            [a.squared(j, stratum) for j in chosen], [b.squared(j, stratum) for j in chosen], self.weights
        )

    def comparisons(self, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """Paired differences of every pair whose methods both finished, for each combination and their mean."""
        rows = []
        for method, reference in pairs:
            for regime in dict.fromkeys(regime for _, regime in self.by_method):
                if (method, regime) not in self.by_method or (reference, regime) not in self.by_method:
                    continue
                for stratum in STRATA:
                    for combination in ["mean", *self.combinations]:
                        d = self.difference(method, reference, regime, combination, stratum)
                        rows.append(
                            {"method": method, "reference": reference, "regime": regime, "combination": combination,
                             "stratum": stratum, "n": d.n, "difference": d.estimate, "lower": d.lower,
                             "upper": d.upper, "p_value": d.p_value, "effect_size": d.effect_size}
                        )  # fmt: skip
        return _holm(pd.DataFrame(rows))


def _holm(comparisons: pd.DataFrame) -> pd.DataFrame:
    """With `p_holm`: Holm's correction over the combinations of one pair, regime and stratum; their mean is no part."""
    if not len(comparisons):
        return comparisons
    corrected = comparisons["p_value"].copy()
    single = comparisons[comparisons.combination.ne("mean") & comparisons.p_value.notna()]
    for _, family in single.groupby(["method", "reference", "regime", "stratum"]):
        corrected[family.index] = multipletests(family["p_value"], method="holm")[1]
    return comparisons.assign(p_holm=corrected)


def judge_claims(claims: Sequence[Claim], comparisons: pd.DataFrame, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each claim with its paired difference in every regime; met where the whole interval lies below zero.

    Without a subject, or with a method that did not finish, there is nothing to judge: `met` and the figures are None.
    """
    nothing = {"regime": "", "n": 0, "difference": None, "lower": None, "upper": None, "met": None}
    judged = []
    for claim in claims:
        where = "averaged over combinations" if claim.combination == "mean" else f"with {claim.combination}"
        text = f"{labels[claim.method]} beats {labels[claim.reference]}, {where}"
        if not len(comparisons):
            judged.append({"claim": text, **nothing})
            continue
        rows = comparisons[
            comparisons.method.eq(claim.method)
            & comparisons.reference.eq(claim.reference)
            & comparisons.combination.eq(claim.combination)
            & comparisons.stratum.eq("all")
        ]
        if not len(rows):
            judged.append({"claim": text, **nothing})
        for row in rows.itertuples():
            figures = {"n": int(row.n), "difference": row.difference, "lower": row.lower, "upper": row.upper,
                       "met": bool(row.upper < 0)} if row.n else {}  # fmt: skip
            judged.append({"claim": text, **nothing, "regime": row.regime, **figures})
    return judged


def finding(judged: Mapping[str, Any], *, names_regime: bool = False) -> str:
    """A claim's outcome as a sentence, whichever way it went."""
    told = f"{judged['regime']}: " if names_regime and judged["regime"] else ""
    if judged["met"] is None:
        return f"{told}{judged['claim']}: not judged, since no test visit was predicted by both."
    d, low, high = judged["difference"], judged["lower"], judged["upper"]
    direction = "lower" if d < 0 else "higher"
    verdict = "the interval excludes zero" if low > 0 or high < 0 else "the interval includes zero"
    claim, where = judged["claim"].rsplit(", ", 1)
    method, reference = claim.split(" beats ", 1)
    return (
        f"{told}RMSE of {method} is {abs(d):.2f} points {direction} than that of {reference} {where} "
        f"(95% interval {low:+.2f} to {high:+.2f}; {verdict})."
    )


def findings(judged: Sequence[Mapping[str, Any]], *, names_regime: bool) -> list[str]:
    """Every claim's outcome as a sentence; where these are many, led by one that sums them up."""
    sentences = [finding(one, names_regime=names_regime) for one in judged]
    if len(judged) <= 3:
        return sentences
    held = [f"{one['claim']}{' (' + one['regime'] + ')' if names_regime else ''}" for one in judged if one["met"]]
    refuted = sum(one["met"] is not None and one["lower"] > 0 for one in judged)
    first = f"Of {len(judged)} claims {len(held) or 'none'} hold{'s' if len(held) == 1 else ''}"
    first += f": {'; '.join(held)}" if held else ""
    return [
        f"{first}. {refuted or 'None'} of the others {'is' if refuted == 1 else 'are'} reversed beyond chance.",
        *sentences,
    ]


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
