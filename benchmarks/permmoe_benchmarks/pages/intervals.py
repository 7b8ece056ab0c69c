"""The page of `python benchmarks/coverage.py`: coverage and width of prediction intervals, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import pandas as pd

FEWEST = 100
"""A combination counts where each cohort calibrates it on so many visits, on average."""
GOAL_POINTS = 2.0
"""How far from nominal the coverage of a combination may be, percentage points."""
EVERYBODY = -1
STAGES = ("CDR-SB up to 2.5", "2.5 to 4", "above 4")
"""Severity groups, as permmoe.calibration.calibration.CDRSB_STAGES parts them."""


def intervals_page(rows: pd.DataFrame, seeds: Sequence[int], subjects: int, seconds: float, shown: str) -> str:
    """The whole page. `rows`: of each cohort, kind, level, combination and severity, with coverage and width, points;
    `shown`: the kind that the product uses by default, which the tables by combination have beside the others."""
    enough = rows.groupby("combination")["calibrated"].transform("mean") >= FEWEST
    judged = rows[enough]
    everybody = judged[judged["severity"] == EVERYBODY]
    n = everybody["combination"].nunique()
    parts = [
        "# How often intervals hold the truth",
        f"`python benchmarks/coverage.py`: {len(seeds)} synthetic cohorts (seeds {seeds[0]} to {seeds[-1]}) of "
        f"{subjects:,} invented patients; {seconds / 60:.0f} minutes. Nothing here is about patients. Of each cohort's "
        "visits with an outcome 30% train a small PerM-MoE on numbers that scans would show, 35% calibrate it and 35% "
        f"judge it, each combination on all visits that have it. {n} of {rows['combination'].nunique()} combinations "
        f"have {FEWEST} calibration visits or more and count. The default was chosen on cohorts 10 to 19 (`--choose`).",
        "## By kind of interval",
        f"Coverage is averaged over combinations and cohorts; the farthest is the combination whose coverage over all "
        f"cohorts is farthest from nominal (goal: {GOAL_POINTS:g} points). Widths in CDR-SB points, cut at the scale's "
        f"ends. **{shown}** is the default.",
        _summary(everybody),
        "## By combination",
        "± is the standard error over cohorts. Below zero: the truth is outside more often than promised.",
        _by_combination(everybody, shown),
        "## By severity at the visit",
        "Over all combinations. What holds on average need not hold for those who are hard to predict.",
        _by_severity(judged),
    ]
    return "\n\n".join(parts) + "\n"


def new_hospital_chapter() -> str:
    """What to do at a hospital that never trained; it holds no figure of these cohorts."""
    return (files("permmoe_benchmarks.pages") / "at_a_new_hospital.md").read_text(encoding="utf-8")


def _summary(rows: pd.DataFrame) -> str:
    lines = ["| interval | level | coverage | farthest combination | mean width |", "|---|---|---|---|---|"]
    for (kind, level), own in rows.groupby(["kind", "level"], sort=False):
        by_combination = 100 * (own.groupby("combination", sort=False)["coverage"].mean() - level)
        farthest = by_combination.abs().idxmax()
        lines.append(
            f"| {kind} | {level:.0%} | {100 * own['coverage'].mean():.1f}% | {by_combination[farthest]:+.1f} "
            f"({farthest}) | {own['width'].mean():.2f} |"
        )
    return "\n".join(lines)


def _by_combination(rows: pd.DataFrame, shown: str) -> str:
    kinds = [shown, *(k for k in ("marginal conformal", "Gaussian head, not calibrated") if k in set(rows["kind"]))]
    levels = sorted(rows["level"].unique())
    heads = [f"{kind}, {level:.0%}" for kind in kinds for level in levels]
    lines = [f"| combination | n | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for combination, own in rows.groupby("combination", sort=False):
        entries = []
        for kind in kinds:
            for level in levels:
                of_it = own[(own["kind"] == kind) & (own["level"] == level)]
                off = 100 * (of_it["coverage"] - level)
                error = off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else np.nan
                entries.append(f"{off.mean():+.1f} ± {error:.1f}, width {of_it['width'].mean():.2f}")
        lines.append(f"| {combination} | {own['calibrated'].mean():.0f} | {' | '.join(entries)} |")
    return "\n".join(lines)


def _by_severity(rows: pd.DataFrame) -> str:
    lines = [f"| interval | level | {' | '.join(STAGES)} |", f"|---|---|{'---|' * len(STAGES)}"]
    for (kind, level), own in rows.groupby(["kind", "level"], sort=False):
        entries = []
        for stage in range(len(STAGES)):
            of_it = own[own["severity"] == stage].dropna(subset=["coverage"])
            weights = of_it["judged"].to_numpy()
            held = np.average(of_it["coverage"], weights=weights) if weights.sum() else np.nan
            width = np.average(of_it["width"], weights=weights) if weights.sum() else np.nan
            entries.append(f"{100 * held:.1f}%, width {width:.2f}")
        lines.append(f"| {kind} | {level:.0%} | {' | '.join(entries)} |")
    return "\n".join(lines)


def next_scans_chapter(rows: pd.DataFrame) -> str:
    """How good the expectations of a missing scan are. `rows`: of each cohort, combination and scan, what was expected
    and what happened to judged visits that have both, points."""
    by_pair = rows.groupby(["combination", "scan"], sort=False).mean(numeric_only=True)
    columns = ("has", "scan", "narrowing expected", "narrowing", "error change expected", "error change")
    lines = [
        "## Which scan next?",
        "What calibration visits expect of a scan that a patient lacks, beside what happened to judged visits that "
        f"have it: means over {rows['cohort'].nunique()} cohorts, CDR-SB points. Over cohorts, combinations and scans "
        "the narrowing of the 80% interval is expected with a root mean square error of "
        f"{_rms(rows, 'narrowing'):.2f} (its own SD is {rows['narrowing'].std():.2f}), the change in mean error with "
        f"{_rms(rows, 'error_change'):.2f} ({rows['error_change'].std():.2f}). Between the patients of a cohort, "
        f"expected and actual narrowing correlate by {rows['of_a_patient'].median():.2f} (median): which scan is worth "
        "most on average is known, for whom it is not.",
        f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}",
    ]
    for (combination, scan), row in by_pair.iterrows():
        lines[-1] += (
            f"\n| {combination} | {scan} | {row['expected_narrowing']:+.2f} | {row['narrowing']:+.2f} "
            f"| {row['expected_error_change']:+.2f} | {row['error_change']:+.2f} |"
        )
    return "\n\n".join(lines) + "\n"


def _rms(rows: pd.DataFrame, figure: str) -> float:
    return float(np.sqrt(((rows[f"expected_{figure}"] - rows[figure]) ** 2).mean()))
