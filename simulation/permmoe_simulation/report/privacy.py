"""What protection costs: ε of every site, and what it takes in accuracy, bytes and time."""

from __future__ import annotations

from math import inf, isfinite, nan

import pandas as pd

from permmoe_simulation.report.content import Entry, Fold, Item, Section, Table, Text, amount, duration, number
from permmoe_simulation.report.lookups import in_order, mean_rmse, scores
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.cell_files import gathered
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.study_tables import PRIVACY, ROUNDS


def privacy_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of PRIVACY, as the cells kept them."""
    return gathered(done.cells, PRIVACY)


def privacy_section(view: View) -> Section | None:
    """Nothing where no method of the study is protected."""
    privacy, rounds = view.study.table(PRIVACY), view.study.table(ROUNDS)
    if privacy is None or rounds is None:
        return None
    if not (privacy["secure"].any() or privacy["epsilon"].map(isfinite).any()):
        return None
    regime = view.regimes[0]
    found = scores(view.pooled, regime, "all")
    rmse = {m: mean_rmse(found, m, view.combinations)[0] for m in view.methods}
    methods = in_order(privacy["method"], view.methods)
    costs = {m: _costs(rounds[(rounds["method"] == m) & (rounds["regime"] == regime)]) for m in methods}
    plain = next((m for m in methods if not _is_protected(privacy[privacy["method"] == m])), None)
    rows = []
    for m in methods:
        own = privacy[privacy["method"] == m]
        up, seconds = costs[m]
        plain_costs = costs[plain] if plain else (nan, nan)
        rows.append(
            [
                Entry(view.label(m)),
                Entry("yes" if own["secure"].any() else "no"),
                _largest(own),
                Entry(number(rmse[m], 3)),
                Entry(amount(up), _ratio(up, plain_costs[0])),
                Entry(duration(seconds), _ratio(seconds, plain_costs[1])),
            ]
        )
    others = [m for m in view.methods if m not in methods]
    rows += [
        [Entry(view.label(m)), Entry("–"), Entry("–"), Entry(number(rmse[m], 3)), Entry("–"), Entry("–")]
        for m in others
    ]
    table = Table(
        f"Protection and its price: the largest ε of a patient at any site for the whole study, RMSE in {view.unit} "
        "averaged over combinations and seeds, bytes that a site sends in a round, and a round's time; below these, "
        "the ratio to the first method without protection. Methods that are not federated send nothing.",
        ["Method", "Secure sum", "ε at most", "Mean RMSE", "Up a round", "A round"],
        rows,
    )
    items: list[Item] = [Text(_finding(view, privacy, rmse, methods, plain)), table]
    items.append(Fold("ε of every site", [_site_table(view, privacy, methods)]))
    items.append(Text(LIMITS))
    return Section("privacy", "What protection costs", items)


LIMITS = (
    "How to read ε: somebody who sees everything that a site released, and who knows all of its other patients, can "
    "tell whether one patient took part with odds that are at most exp(ε) times better than before, except with "
    "probability δ. The bound covers the training, and evaluations that sites count with noise: in this simulation the "
    "test errors above were computed with all visits in one place. The secure sum has no ε: it hides a site among the "
    "others, and does not hide a patient from somebody who sees the final model. Each site draws its own noise, which "
    "costs small sites most, unless a "
    "method says that sites share it: then ε holds against those outside, together with as many of the sites as the "
    "method says. The seeds of the noise are fixed here so that the study can be repeated, which no hospital may do."
)


def _finding(view: View, privacy: pd.DataFrame, rmse: dict[str, float], methods: list[str], plain: str | None) -> str:
    """Sentences on the methods whose cells finished: one without a finite RMSE is compared with nothing."""
    methods = [m for m in methods if isfinite(rmse[m])]
    private = [m for m in methods if isfinite(privacy.loc[privacy["method"] == m, "epsilon"].max())]
    secure = [m for m in methods if m not in private and privacy.loc[privacy["method"] == m, "secure"].any()]
    plain = plain if plain in methods else None
    parts = []
    if plain and secure:
        change = rmse[secure[0]] - rmse[plain]
        parts.append(
            f"The secure sum changes the mean RMSE by {number(change, 3)} {view.unit}"
            " (modules that fewer sites than min_holders hold are not released)."
        )
    if plain and private:
        best = min(private, key=lambda m: rmse[m])
        top = _epsilon(privacy.loc[privacy["method"] == best, "epsilon"].max())
        parts.append(
            f"With differential privacy the best mean RMSE is {number(rmse[best], 3)} at ε = {top}, "
            f"against {number(rmse[plain], 3)} without protection."
        )
        nulls = [m for m in view.methods if view.summary.methods[m].kind == "reference" and isfinite(rmse[m])]
        if nulls:
            null = min(nulls, key=lambda m: rmse[m])
            worse = "worse" if rmse[best] > rmse[null] else "better"
            parts.append(f"That is {worse} than {view.label(null)}, which sees no image, at {number(rmse[null], 3)}.")
    return " ".join(parts)


def _site_table(view: View, privacy: pd.DataFrame, methods: list[str]) -> Table:
    sites = in_order(privacy["site"])
    rows = []
    for m in methods:
        largest = privacy[privacy["method"] == m].groupby("site")["epsilon"].max()
        rows.append([Entry(view.label(m)), *(Entry(_epsilon(largest.get(site, nan))) for site in sites)])
    return Table("ε of a patient at each site, the largest over seeds.", ["Method", *sites], rows)


def _costs(rounds: pd.DataFrame) -> tuple[float, float]:
    """Mean bytes that a site sends in a round, and mean seconds of a round."""
    by_round = rounds.groupby(["seed", "round"])["round_seconds"].first()
    return float(rounds["bytes_up"].mean()), float(by_round.mean())


def _is_protected(rows: pd.DataFrame) -> bool:
    return bool(rows["secure"].any() or rows["epsilon"].map(isfinite).any())


def _largest(rows: pd.DataFrame) -> Entry:
    epsilon = float(rows["epsilon"].max())
    return Entry(_epsilon(epsilon), f"δ = {rows['delta'].max():g}" if isfinite(epsilon) else "")


def _epsilon(value: float) -> str:
    return "no bound" if value == inf else number(value, 2)


def _ratio(value: float, reference: float) -> str:
    return f"× {number(value / reference, 2)}" if reference and isfinite(reference) else ""


PRIVACY_SECTION = ReportSection(privacy_section, {PRIVACY: privacy_rows})
