"""The table and the section of coverage: how often prediction intervals hold the truth, and how wide they are.

Each cell's model is calibrated on its validation visits, as `permmoe train` does it, and judged on its test visits:
with each combination, and at each site. Where some sites train nothing, they are also judged together, and so are the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from permmoe.calibration.calibration import severity_ends, severity_group
from permmoe.calibration.coverage import interval_ends
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import count_scores, least_visits
from permmoe.config import ModelConfig, parse_config
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report.content import Entry, Fold, Item, Section, Table, Text, listed, number
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.cell_files import CALIBRATION, FinishedCell, read_predictions
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import OUTCOME_UNIT, StudyTable, real, text, whole

EVERYWHERE = "all"
TRAINED, UNSEEN = "sites that trained", "sites that never trained"
"""All sites of a kind, in cells that have both kinds; no site's name has a space."""
NEVER_TRAINED = " (never trained)"
"""What follows the name of a site where it trained nothing: in another seed it may have trained."""
COVERAGE = StudyTable(
    "coverage",
    "intervals of a method and regime at a level, for a combination (or `mean`) and a site (or sites), over all seeds",
    (
        *text("method", "regime", "combination", "site"),
        *real("level"),
        *whole("seeds", "n", unit="intervals judged"),
        *real("calibrated", unit="visits a seed"),
        *real("coverage", "lowest", "highest", unit="share of the intervals; the ends are over seeds"),
        *real("width", unit=OUTCOME_UNIT),
        *real("pooled", unit="share of the intervals"),
    ),
)


def coverage_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of COVERAGE."""
    return coverage_of(done.cells)


def coverage_of(cells: Sequence[FinishedCell]) -> pd.DataFrame:
    """Rows of COVERAGE; none of cells that kept no predictions for their validation visits."""
    judged = [row for cell in cells if (cell.folder / CALIBRATION).exists() for row in _judged(cell)]
    if not judged:
        return pd.DataFrame()
    rows = []
    for key, own in pd.DataFrame(judged).groupby(["method", "regime", "combination", "site", "level"], sort=False):
        known = own[own["n"] > 0]
        by_seed = known["inside"] / known["n"]
        total = max(int(known["n"].sum()), 1)
        rows.append(
            {**dict(zip(("method", "regime", "combination", "site", "level"), key, strict=True)),
             "seeds": len(known), "n": int(known["n"].sum()), "calibrated": own["calibrated"].mean(),
             "coverage": known["inside"].sum() / total if len(known) else np.nan,
             "lowest": by_seed.min(), "highest": by_seed.max(),
             "width": known["width_sum"].sum() / total if len(known) else np.nan,
             "pooled": known["pooled"].sum() / total if len(known) else np.nan}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _judged(cell: FinishedCell) -> Iterator[dict[str, Any]]:
    """What the test visits of one cell say: intervals that hold, their number and their widths, added up."""
    model = parse_config(cell.card()["cell"]["model"], ModelConfig, f"the card in {cell.folder}")
    own, new = read_predictions(cell.folder, CALIBRATION), read_predictions(cell.folder)
    names = [combination_name(c) for c in all_combinations(model.names)]
    ends = severity_ends(model)
    scores = np.abs(own["target"].to_numpy()[:, None] - own[names].to_numpy()) / model.unit_points
    counts = count_scores(
        model.names, scores, severity_group(own["baseline"].to_numpy(), ends), 1 + len(ends), own["site"].tolist()
    )
    kinds, places = _places(new["site"], cell.unseen_sites())
    predictions, target = new[names].to_numpy(), new["target"].to_numpy()[:, None]
    scales, calibrated = np.full(predictions.shape, model.unit_points), counts.counts[:, 0].sum(1)
    for level in LEVELS:
        low, high = interval_ends(counts, model, predictions, scales, new["baseline"].to_numpy(), level)
        is_judged = np.isfinite(low) & np.isfinite(high) & ~np.isnan(target)
        inside = is_judged & (low <= target) & (target <= high)
        width = np.where(is_judged, high - low, 0.0)
        is_pooled = is_judged & (calibrated < least_visits(level))
        groups = [(name, many, at, [j], int(calibrated[j])) for many, at in kinds for j, name in enumerate(names)]
        groups += [(MEAN, site, at, list(range(len(names))), int(counts.visits[0])) for site, at in [*kinds, *places]]
        for combination, site, at, columns, n in groups:
            chosen = np.ix_(at, np.array(columns))
            yield {
                "method": cell.method, "regime": cell.regime, "seed": cell.seed, "combination": combination,
                "site": site, "level": level, "n": int(is_judged[chosen].sum()), "calibrated": n,
                "inside": int(inside[chosen].sum()), "width_sum": float(width[chosen].sum()),
                "pooled": int(is_pooled[chosen].sum()),
            }  # fmt: skip


Place = tuple[str, Bool[np.ndarray, " visit"]]
"""What a set of sites is called, and which visits are theirs."""


def _places(site_of: pd.Series, unseen: Sequence[str]) -> tuple[list[Place], list[Place]]:
    """The sets of several sites, and every site by itself."""
    never = site_of.isin(unseen).to_numpy()
    kinds = [(EVERYWHERE, np.ones(len(site_of), dtype=bool))]
    if never.any():
        kinds += [(TRAINED, ~never), (UNSEEN, never)]
    single = [
        (f"{site}{NEVER_TRAINED if site in unseen else ''}", (site_of == site).to_numpy())
        for site in sorted(set(site_of))
    ]
    return kinds, single


def coverage_section(view: View) -> Section:
    """How often intervals hold; that nothing is known of it where the cells are from before it was measured."""
    title, rows = "How often prediction intervals hold", view.study.table(COVERAGE)
    if rows is None:
        return Section("coverage", title, [Text(
            "Not measured: no cell of this study kept its predictions for validation visits, or these were too few."
        )])  # fmt: skip

    def build(regime: str) -> list[Item]:
        own = rows[rows["regime"] == regime]
        methods = [m for m in view.methods if m in set(own["method"])]
        if not methods:
            return [Text("No method of this regime kept its predictions for validation visits.")]
        where = f", {regime}" if len(view.regimes) > 1 else ""
        averages = [(MEAN, many) for many in _kinds(own)]
        return [
            _table(view, own, methods, "Method", averages, f"All combinations and sites{where}."),
            *(
                Fold(f"{view.label(m)}: by combination and by site{where}", _details(view, own, m))
                for m in methods
            ),
        ]  # fmt: skip

    intro = Text(
        f"An interval of {LEVELS[0]:.0%} is to hold the true change of {LEVELS[0]:.0%} of patients with the same "
        "modalities. Each training is calibrated on its validation visits (split conformal prediction, conditional on "
        "the combination and, where there are enough visits, on severity) and judged on its test visits. Coverage "
        "below nominal means that intervals promise too much; what holds over all sites need not hold at each."
        f"{_UNSEEN if UNSEEN in set(rows['site']) else ''}"
    )
    return Section("coverage", title, [intro, *by_regime(view, build)])


class CoverageOverSites(NamedTuple):
    """One row of COVERAGE over all combinations and several sites."""

    method: str
    regime: str
    site: str
    """Which sites: EVERYWHERE, TRAINED or UNSEEN."""
    level: float
    n: int
    coverage: float
    lowest: float
    highest: float
    width: float


def coverage_over_sites(view: View) -> list[CoverageOverSites]:
    """What held over all combinations, at all sites and at each kind of them; nothing where no interval was judged."""
    rows = view.study.table(COVERAGE)
    if rows is None:
        return []
    averages = rows[(rows["combination"] == MEAN) & rows["site"].isin([EVERYWHERE, TRAINED, UNSEEN]) & (rows["n"] > 0)]
    found = [CoverageOverSites(*row) for row in averages[list(CoverageOverSites._fields)].itertuples(index=False)]
    methods = {m: place for place, m in enumerate(view.methods)}
    return sorted(found, key=lambda row: methods[row.method])


_UNSEEN = (
    " Sites that never trained gave neither training nor validation visits, so that nothing about their patients and "
    "scanners is in the intervals. Which sites these are is drawn anew for every seed."
)


def _details(view: View, rows: pd.DataFrame, method: str) -> list[Item]:
    own = rows[rows["method"] == method]
    kinds = _kinds(own)
    sites = sorted(set(own["site"]) - set(kinds))
    combinations = [c for c in view.combinations if c in set(own["combination"])]
    few = own[(own["pooled"] > 0) & (own["combination"] != MEAN)]
    notes = [
        Text(f"At {level:.0%} too few validation visits of {listed(sorted(set(some['combination'])))}: pooled there.")
        for level, some in few.groupby("level")
    ]
    return [
        *(
            _table(
                view, own, [method], "Combination", [(c, many) for c in combinations],
                f"By combination{_at(many)}.",
            )
            for many in kinds
        ),
        *notes,
        _table(view, own, [method], "Site", [(MEAN, s) for s in sites], "By site, all combinations."),
    ]  # fmt: skip


def _kinds(rows: pd.DataFrame) -> list[str]:
    """The sets of several sites that the rows are of."""
    return [many for many in (EVERYWHERE, TRAINED, UNSEEN) if many in set(rows["site"])]


def _at(many: str) -> str:
    return "" if many == EVERYWHERE else f", {many}"


def _table(
    view: View, rows: pd.DataFrame, methods: Sequence[str], first: str, keys: Sequence[tuple[str, str]], what: str
) -> Table:
    found = {(r.method, r.combination, r.site, r.level): r for r in rows.itertuples()}
    lines = []
    for method in methods:
        for combination, site in keys:
            at = [found.get((method, combination, site, level)) for level in LEVELS]
            label = f"{view.label(method)}{_at(site)}"
            name = label if first == "Method" else combination if first == "Combination" else site
            entries = [Entry(name), Entry("–" if at[0] is None else f"{at[0].n:,}")]
            for row in at:
                if row is None or not row.n:
                    entries += [Entry("–", "too few"), Entry("–")]
                    continue
                over = f"{100 * row.lowest:.0f} to {100 * row.highest:.0f}% over seeds" if row.seeds > 1 else ""
                entries += [Entry(f"{100 * row.coverage:.1f}%", over), Entry(number(row.width))]
            lines.append(entries)
    header = [first, "Judged", *(h for level in LEVELS for h in (f"{level:.0%} intervals hold", "Mean width"))]
    return Table(
        f"{what} Intervals judged (a test visit counts once in every combination that it has and every seed), the "
        f"share that holds the true change, and their mean width in {view.unit}.",
        header,
        lines,
    )


COVERAGE_SECTION = ReportSection(coverage_section, {COVERAGE: coverage_rows})
