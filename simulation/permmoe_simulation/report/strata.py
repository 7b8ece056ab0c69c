"""The section on the subjects whom the paper looks at in particular: small changes, and severe baselines."""

from __future__ import annotations

from collections.abc import Mapping

from permmoe_simulation.report.accuracy import best_sentence, has_figure, score_table
from permmoe_simulation.report.content import Fold, Item, Plot, Section, Text, count
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.lookups import STRATA, Scores, in_order, mean_rmse, scores
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime


def strata_section(view: View) -> Section | None:
    """Nothing for an outcome that has no such strata."""
    if set(_strata(view)) <= {"all"}:
        return None

    def build(regime: str) -> list[Item]:
        by_stratum = {name: scores(view.pooled, regime, name) for name in _strata(view)}
        by_stratum = {name: found for name, found in by_stratum.items() if any(s.n for s in found.values())}
        where = f", regime {regime}" if len(view.regimes) > 1 else ""
        if not set(by_stratum) - {"all"}:
            return [Text(f"No test subject falls into a stratum{where}.")]
        sentences = [
            best_sentence(view, found, f"{STRATA.get(name, name)}:")
            for name, found in by_stratum.items()
            if name != "all"
        ]
        return [
            *(Text(sentence) for sentence in sentences if sentence),
            _strata_plot(view, by_stratum),
            *(
                Fold(
                    f"Numbers: {STRATA.get(name, name)}{where}",
                    [score_table(view, found, f"RMSE in {view.unit}, {STRATA.get(name, name)}.")],
                )
                for name, found in by_stratum.items()
                if name != "all"
            ),
        ]

    return Section("strata", "Small changes and severe baselines", by_regime(view, build))


def _strata(view: View) -> list[str]:
    return in_order(view.pooled["stratum"], STRATA)


def _strata_plot(view: View, by_stratum: Mapping[str, Scores]) -> Plot:
    rows = [Row(view.label(m)) for m in view.methods]
    panels = []
    for name, found in by_stratum.items():
        numbers = [s.n for s in found.values() if s.n > 0]
        marks, remarks = [], {}
        for row, m in enumerate(view.methods):
            shown = [c for c in view.combinations if has_figure(found, m, c)]
            if not shown:
                remarks[row] = "no figure"
                continue
            look = view.looks[m]
            marks += [Mark(row, found[m, c].rmse, look, is_faint=True) for c in shown]
            marks.append(Mark(row, mean_rmse(found, m, shown)[0], look))
        extent = f"{min(numbers)} to {max(numbers)}"
        panels.append(Panel(STRATA.get(name, name), f"RMSE ({view.unit})\nn {extent} a combination", marks, remarks))
    return Plot(
        row_plot(rows, panels, view.modalities, row_height=0.3),
        f"RMSE of {count(len(view.methods), 'method')} in {len(by_stratum)} strata; tables below have the numbers.",
        "Each small dot is one combination of modalities, the large mark their mean. The scales differ: larger changes "
        f"are harder to hit. Δ is the {view.summary.outcome.name} that was to be predicted.",
    )


STRATA_SECTION = ReportSection(strata_section)
