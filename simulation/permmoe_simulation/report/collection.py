"""The findings of several finished studies as one Markdown page, each with what it takes to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from permmoe_simulation.report.cells import scores
from permmoe_simulation.report.content import interval, number, signed
from permmoe_simulation.report.files import Study, read_study
from permmoe_simulation.report.ranking import ALPHA
from permmoe_simulation.report.view import View, view_of

HEAD = """# Results

What the studies found at their `quick` profile, written by `python simulation/collect_results.py`; nothing here is
typed by hand. **Every figure is from synthetic patients** unless a study says otherwise: it says how methods compare
on such data, and nothing about patients. RMSE is in CDR-SB points, differences are paired over test subjects, brackets
are 95% bootstrap intervals, and "after Holm" counts combinations that stay significant at 5%.
[studies.md](studies.md) says what each study asks.
"""


def collected(folders: Sequence[Path]) -> str:
    """The page. Raises DataError for a folder without a finished study."""
    return HEAD + "".join(_chapter(read_study(folder)) for folder in folders)


def _chapter(study: Study) -> str:
    summary, view = study.summary, view_of(study)
    digests = ", ".join(f"{name} `{value[:8]}`" for name, value in sorted(summary.digests.items()))
    seeds = ", ".join(map(str, summary.seeds))
    label = "synthetic data" if summary.synthetic else "data of the manifest"
    lines = [
        f"\n## {summary.study}\n",
        f"`{summary.command}` ({summary.date}, {label}, seeds {seeds}, {digests})\n",
        *(f"- {finding}" for finding in summary.findings),
    ]
    if summary.failed_cells:
        lines.append(f"- {len(summary.failed_cells)} cells failed; their figures are missing.")
    return "\n".join([*lines, "", *_pairs(view), *_gaps(view)]) + "\n"


def _pairs(view: View) -> list[str]:
    comparisons = view.study.comparisons
    if comparisons is None or comparisons.empty:
        return []
    of_all = comparisons[comparisons["stratum"] == "all"]
    lines = [
        "| pair | regime | mean RMSE | difference | wins | after Holm |",
        "|---|---|---|---|---|---|",
    ]
    for (a, b, regime), rows in of_all.groupby(["method", "reference", "regime"], sort=False):
        mean = rows[rows["combination"] == "mean"].iloc[0]
        single = rows[(rows["combination"] != "mean") & (rows["n"] > 0)]
        won, clear = single["difference"] < 0, single["p_holm"] < ALPHA
        found = scores(view.pooled, str(regime), "all")
        both = [c for c in view.combinations if all((m, c) in found and found[m, c].n for m in (a, b))]
        means = [number(sum(found[m, c].rmse for c in both) / len(both), 3) if both else "–" for m in (a, b)]
        pair = f"{view.label(a)} − {view.label(b)}"
        lines.append(
            f"| {pair} | {regime} | {means[0]}, {means[1]} | {signed(mean['difference'], 3)} "
            f"({interval(mean['lower'], mean['upper'], 3)}) | {int(won.sum())} of {len(single)} | "
            f"{int((won & clear).sum())} better, {int((~won & clear).sum())} worse |"
        )
    return [*lines, ""]


def _gaps(view: View) -> list[str]:
    gaps = view.study.gaps
    if gaps is None or gaps.empty:
        return []
    lines = ["Share of the gap that a method closes, averaged over combinations:", "",
             "| method | regime | share | 95% interval |", "|---|---|---|---|"]  # fmt: skip
    averaged = gaps[gaps["combination"] == "mean"]
    for row in averaged.to_dict("records"):
        if (row["share"], row["lower"]) in ((0.0, 0.0), (1.0, 1.0)):
            continue
        between = interval(100 * row["lower"], 100 * row["upper"], 0)
        name = view.label(str(row["method"]))
        share = f"{number(100 * row['share'], 0)}%" if isfinite(row["share"]) else "no gap beyond chance"
        lines.append(f"| {name} | {row['regime']} | {share} | {between} |")
    return [*lines, ""]
