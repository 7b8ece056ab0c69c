"""The findings of several finished studies as one Markdown page, each with what it takes to repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from permmoe.calibration.intervals import LEVELS
from permmoe.evaluation.intervals import LEVEL
from permmoe_simulation.report.axis import ALONG_AXIS, TRENDS, crossing_sentence
from permmoe_simulation.report.cohorts import over_cohorts_chapter
from permmoe_simulation.report.content import interval, number, signed, table_digits
from permmoe_simulation.report.coverage import coverage_over_sites
from permmoe_simulation.report.experts import ROUTING, expert_sentences
from permmoe_simulation.report.files import Study, read_study
from permmoe_simulation.report.forgetting import forgetting_chapter
from permmoe_simulation.report.gap_closed import GAPS, share_interval
from permmoe_simulation.report.growth import growth_sentences
from permmoe_simulation.report.judged_intervals import UNSEEN
from permmoe_simulation.report.looks import Look, look_of, look_sentence, with_look
from permmoe_simulation.report.lookups import MEAN, in_order, scores, unmirrored
from permmoe_simulation.report.newcomers import newcomers
from permmoe_simulation.report.page import SECTIONS
from permmoe_simulation.report.published import beside, carried_sentence, regimes_of
from permmoe_simulation.report.published_command import published_command
from permmoe_simulation.report.ranking import beyond_chance
from permmoe_simulation.report.section import tables_of
from permmoe_simulation.report.slow_sites import slow_sites_sentences
from permmoe_simulation.report.view import View, view_of
from permmoe_simulation.study_tables import COMPARISONS

HEAD = """# Results

What the studies found, written by `python simulation/collect_results.py`; nothing here is typed by hand. **Figures are
from synthetic patients** unless a study says otherwise: they say how methods compare on such data, and nothing about
patients. Differences are in RMSE, method − reference, in the study's unit and paired over the n test subjects that both
predicted. Brackets are 95% intervals over training seeds, splits and subjects together; bold is what is beyond chance
after Holm's correction over all pairs and regimes. "Wins" counts the combinations of modalities in which the method
errs less, "beyond chance" those in which that is told from chance. With fewer than five seeds nothing is judged. Each
study's `report.html` has every combination; [studies.md](studies.md) says what each study asks and how it is judged. A
chapter's date says when it was computed; [CHANGELOG.md](../CHANGELOG.md) says what has changed results since.
[looks.csv](looks.csv) has every cohort that was looked at, when and by which study; a chapter that was added since that
log is kept says how many looks came before its own, since a finding of the first look is worth most.
"""
CHAPTER = "\n## "


class Collection(NamedTuple):
    """What is published: the page, and the log of looks with those that the page adds."""

    page: str
    looks: tuple[Look, ...]


def collected(folders: Sequence[Path], page: str = "", looks: Sequence[Look] = (), where: str = "") -> Collection:
    """The page, to be written at `where`, and the log of looks.

    `page` is an older one, whose chapters of other studies stay; a new study comes behind them. Raises DataError for a
    folder without a finished study and ConfigurationError for a study on a cohort of development.
    """
    chapters = {chapter.partition("\n")[0]: CHAPTER + chapter for chapter in page.split(CHAPTER)[1:]}
    log = tuple(looks)
    for folder in folders:
        study = read_study(folder, tables_of(SECTIONS))
        look = look_of(study.summary, where)
        log = with_look(log, look)
        chapters[study.summary.study] = _chapter(study, look_sentence(log, look))
    return Collection(HEAD + "".join(chapters.values()), log)


def _chapter(study: Study, looked: str) -> str:
    summary, view = study.summary, view_of(study)
    digests = ", ".join(f"{name} `{value[:8]}`" for name, value in sorted(summary.digests.items()))
    lead = summary.findings if len(summary.findings) <= 2 else summary.findings[:1]
    statements = [
        *lead,
        *summary.ladder,
        *_published(view),
        *_axis(view),
        *_experts(view),
        *growth_sentences(view),
        *slow_sites_sentences(view),
    ]
    if summary.failed_cells:
        statements.append(f"{len(summary.failed_cells)} cells failed; their figures are missing.")
    lines = [
        f"\n## {summary.study}\n",
        f"*{summary.data_label.capitalize()}, {_seeds(summary.seeds)}, {summary.date}; {digests}.* {looked}\n",
        *(f"{sentence}\n" for sentence in statements),
        *over_cohorts_chapter(view),
        *_pairs(view),
        *_gaps(view),
        *_coverage(view),
        *_newcomers(view),
        *forgetting_chapter(view),
        f"Repeat: `{published_command(summary.command)}`\n",
    ]
    return "\n".join(lines)


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _published(view: View) -> list[str]:
    """The paper's figures beside the study's, as a sentence and a table."""
    lines = []
    for published in view.summary.published:
        for regime in regimes_of(view, published):
            statements = beside(view, published, regime)
            lines.append(f"**Beside the paper** ({published.source}). {carried_sentence(view, published, statements)}")
            lines.append(
                "\n".join(
                    [
                        f"| claim | paper | ours ({view.summary.data_label}) | n | outcome |",
                        "|---|---|---|---|---|",
                        *(
                            f"| {b.what} | {b.theirs} | {b.ours} ({b.between or 'not judged'}) | {b.n or '–'} | "
                            f"{b.verdict} |"
                            for b in statements
                        ),
                    ]
                )
            )
    return lines


def _axis(view: View) -> list[str]:
    """Where lines cross along the study's axis, for each pair on average and for the combinations of a claim."""
    axis, along, trends = view.summary.axis, view.study.table(ALONG_AXIS), view.study.table(TRENDS)
    if axis is None or along is None or trends is None:
        return []
    statements = []
    for pair in unmirrored(zip(trends["method"], trends["reference"], strict=True)):
        sentences = (crossing_sentence(view, axis, pair, c) for c in in_order(along["combination"], [MEAN]))
        statements += [sentence for sentence in sentences if sentence]
    return [f"**Along the axis ({axis.name}).** {' '.join(statements)}"] if statements else []


def _experts(view: View) -> list[str]:
    """The paper's failure signatures, of the first two methods with experts, where there is one regime."""
    routing = view.study.table(ROUTING)
    if routing is None or len(view.regimes) > 1:
        return []
    return [f"**Experts.** {' '.join(expert_sentences(view, in_order(routing['method'], view.methods)[:2]))}"]


def _pairs(view: View) -> list[str]:
    comparisons = view.study.table(COMPARISONS)
    if comparisons is None:
        return []
    of_all = comparisons[comparisons["stratum"] == "all"]
    digits = table_digits(of_all["difference"])
    several = len(view.regimes) > 1
    lines = [
        f"| pair |{' regime |' if several else ''} mean RMSE | difference, {view.unit} | n | wins | beyond chance |",
        f"|---|{'---|' if several else ''}---|---|---|---|---|",
    ]
    shown = unmirrored(zip(of_all["method"], of_all["reference"], strict=True))
    for (a, b, regime), rows in of_all.groupby(["method", "reference", "regime"], sort=False):
        if (a, b) not in shown:
            continue
        mean = rows[rows["combination"] == MEAN].iloc[0]
        single = rows[(rows["combination"] != MEAN) & (rows["n"] > 0)]
        won = single["difference"] < 0
        found = scores(view.pooled, str(regime), "all")
        both = [c for c in view.combinations if all((m, c) in found and found[m, c].n for m in (a, b))]
        if any(found[a, c].n != found[b, c].n for c in both):
            # Means over other visits would be held against each other; the difference is over those of both.
            both = []
        means = [number(sum(found[m, c].rmse for c in both) / len(both), digits) if both else "–" for m in (a, b)]
        between = interval(mean["lower"], mean["upper"], digits) or "not judged"
        difference = f"{signed(mean['difference'], digits)} ({between})"
        if mean.get("p_holm", nan) < LEVEL:
            difference = f"**{difference}**"
        lines.append(
            f"| {view.label(a)} − {view.label(b)} |{f' {regime} |' if several else ''} {means[0]}, {means[1]} | "
            f"{difference} | {int(mean['n'])} | {int(won.sum())} of {len(single)} | "
            f"{beyond_chance(single)} |"
        )
    return [*lines, ""]


def _gaps(view: View) -> list[str]:
    """Shares of the gap: a row for each method, a column for each regime."""
    gaps = view.study.table(GAPS)
    if gaps is None:
        return []
    averaged = gaps[gaps["combination"] == MEAN]
    regimes = in_order(averaged["regime"], view.regimes)
    table = averaged.set_index(["method", "regime"])
    lines = []
    for m in in_order(averaged["method"], view.methods):
        rows = averaged[averaged["method"] == m]
        if rows["share"].dropna().isin([0.0, 1.0]).all() and rows["share"].notna().any():
            continue  # an end of the gap
        shares = [_share(table.loc[(m, r)]) if (m, r) in table.index else "–" for r in regimes]
        if any(share != "–" for share in shares):
            lines.append(f"| {view.label(m)} | {' | '.join(shares)} |")
    closed = [r for r in regimes if not averaged.loc[averaged["regime"] == r, "share"].notna().any()]
    nothing = f" No gap beyond chance, and so nothing to close, in: {', '.join(closed)}." if closed else ""
    numbers = averaged["n"].astype(int)
    n = str(numbers.min()) if numbers.min() == numbers.max() else f"{numbers.min()} to {numbers.max()}"
    title = f"Share of the gap that a method closes, averaged over combinations (n = {n}).{nothing}\n"
    if not lines:
        return [title]
    head = [f"| method | {' | '.join(regimes)} |", f"|---|{'---|' * len(regimes)}"]
    return [title, *head, *lines, ""]


def _coverage(view: View) -> list[str]:
    """How often prediction intervals hold, of a study in which some sites never trained."""
    rows = coverage_over_sites(view)
    if UNSEEN not in {row.site for row in rows}:
        return []
    levels = list(dict.fromkeys(row.level for row in rows))
    at = {(row.method, row.regime, row.site, row.level): row for row in rows}
    lines = [
        "How often prediction intervals hold the true change, over all combinations and seeds (over single seeds), and "
        f"their mean width in {view.unit}; they are calibrated at the sites that trained.\n",
        f"| method | regime | sites | judged | {' | '.join(f'{level:.0%} hold | width' for level in levels)} |",
        f"|---|---|---|---|{'---|---|' * len(levels)}",
    ]
    for method, regime, site in dict.fromkeys((row.method, row.regime, row.site) for row in rows):
        own = [at[method, regime, site, level] for level in levels]
        held = (
            f"{row.coverage:.1%} ({100 * row.lowest:.0f} to {100 * row.highest:.0f}%) | {number(row.width)}"
            for row in own
        )
        lines.append(f"| {view.label(method)} | {regime} | {site} | {own[0].n:,} | {' | '.join(held)} |")
    return [*lines, ""]


def _newcomers(view: View) -> list[str]:
    """What hospitals that never trained get, before and after a calibration on their own patients."""
    rows = newcomers(view)
    if not rows:
        return []
    levels = " | ".join(f"{level:.0%} hold | width" for level in LEVELS)
    lines = [
        f"What hospitals that never trained ({max(row.hospitals for row in rows)} over all seeds) get from a "
        "calibration on patients of their own, over all combinations (over single hospitals): intervals, and RMSE "
        f"averaged over combinations, in {view.unit}. All numbers are judged on the same other patients.\n",
        f"| method | regime | own patients | judged | {levels} | RMSE | change in RMSE | n |",
        f"|---|---|---|---|{'---|---|' * len(LEVELS)}---|---|---|",
    ]
    for row in rows:
        held = " | ".join(words for pair in zip(row.held, row.width, strict=True) for words in pair)
        change = f"**{row.change}**" if row.is_beyond_chance else row.change or "–"
        lines.append(
            f"| {view.label(row.method)} | {row.regime} | {row.patients} | {row.n:,} | {held} | {row.rmse} | "
            f"{change} | {row.subjects} |"
        )
    return [*lines, ""]


def _share(row: pd.Series[float]) -> str:
    if not isfinite(row["share"]):
        return "–"
    return f"{number(100 * row['share'], 0)}% ({share_interval(row) or 'not judged'})"
