"""What slow hospitals cost: the simulated time of a federation, and whose updates count in it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from permmoe_simulation.report.content import Entry, Item, Section, Table, Text, duration, number
from permmoe_simulation.report.lookups import in_order, mean_rmse, scores
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.study_tables import ROUNDS


@dataclass(frozen=True)
class Pace:
    """How a method's federation went, on average over its seeds."""

    rounds: int
    seconds: float
    """Simulated time of all rounds."""
    counted: float
    """Share of the sites' rounds whose step holds an update of the site."""
    late: float
    """Share of these updates that came late."""
    least: float
    """Share of the rounds in which an update of the least heard site counted."""


def pace_of(rounds: pd.DataFrame) -> Pace:
    """The pace that the rows of one method and regime show."""
    once = rounds.groupby(["seed", "round"])["round_seconds"].first()
    is_counted = rounds["staleness"].notna()
    by_site = is_counted.groupby([rounds["seed"], rounds["site"]]).mean()
    return Pace(
        rounds=rounds["round"].nunique(),
        seconds=float(once.groupby("seed").sum().mean()),
        counted=float(is_counted.mean()),
        late=float((rounds["staleness"] > 0).sum() / max(is_counted.sum(), 1)),
        least=float(by_site.groupby("seed").min().mean()),
    )


def slow_sites_section(view: View) -> Section | None:
    """The time of each federation and whose updates count; None where no site takes simulated time."""
    if (rounds := _paced(view)) is None:
        return None
    return Section("slow-sites", "Slow hospitals", by_regime(view, lambda regime: _items(view, rounds, regime)))


def slow_sites_sentences(view: View) -> list[str]:
    """One sentence for each regime; none where no site takes simulated time."""
    rounds = _paced(view)
    return [] if rounds is None else [_sentence(view, rounds, regime) for regime in view.regimes]


def _paced(view: View) -> pd.DataFrame | None:
    rounds = view.study.table(ROUNDS)
    return None if rounds is None or "staleness" not in rounds or rounds["staleness"].isna().all() else rounds


def _paces(view: View, rounds: pd.DataFrame, regime: str) -> dict[str, Pace]:
    own = rounds[rounds["regime"] == regime]
    return {m: pace_of(own[own["method"] == m]) for m in in_order(own["method"], view.methods)}


def _sentence(view: View, rounds: pd.DataFrame, regime: str) -> str:
    where = f" ({regime})" if len(view.regimes) > 1 else ""
    parts = [
        f"{view.label(m)} {duration(pace.seconds)} for {pace.rounds} rounds, with {_percent(pace.counted)} of the "
        f"updates counted, {_percent(pace.late)} of them late, and {_percent(pace.least)} of those of the least heard "
        "hospital"
        for m, pace in _paces(view, rounds, regime).items()
    ]
    return f"**Simulated time**{where}: {'; '.join(parts)}."


def _items(view: View, rounds: pd.DataFrame, regime: str) -> list[Item]:
    found = scores(view.pooled, regime, "all")
    rows = [
        [
            Entry(view.label(m)),
            Entry(str(pace.rounds)),
            Entry(duration(pace.seconds)),
            Entry(_percent(pace.counted)),
            Entry(_percent(pace.late)),
            Entry(_percent(pace.least)),
            Entry(number(mean_rmse(found, m, view.combinations)[0], 3)),
        ]
        for m, pace in _paces(view, rounds, regime).items()
    ]
    return [
        Text(
            "Time is simulated: how long each hospital takes for a training is drawn by the seed, evaluations and the "
            "wire take none, and nobody waits for it."
        ),
        Table(
            "A whole run, on average over seeds. An update counts where the step of a round holds it, in time or late.",
            ["Method", "Rounds", "Time", "Updates counted", "of them late", "Least heard hospital", "Mean RMSE"],
            rows,
        ),
    ]


def _percent(share: float) -> str:
    return f"{number(100 * share, 0)}%"


SLOW_SITES = ReportSection(slow_sites_section)
