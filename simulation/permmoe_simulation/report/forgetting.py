"""The table and the section of what forgetting costs, and of what a model remembers of those who withdrew.

The attack is the simplest that works on a model (Yeom et al. 2018, arXiv 1709.01604): a patient whom the model
predicts well is taken for one that it was trained on. It is right about a withdrawn patient and a test patient, one of
each drawn at random, as often as the model errs less on the former: 50% where it knows nothing. What a model that was
trained anew without them gives away is what patients like them are like, so every other is held against that one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from permmoe.evaluation.figures import average_figure, contrast
from permmoe.evaluation.intervals import LEVEL, judged_interval, judged_p_value, mean_rmse_interval, paired_difference
from permmoe_simulation.report.content import Entry, Item, Section, Table, Text, interval, number, signed
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.cell_files import PREDICTIONS, TRAINED, WITHDREW, FinishedCell, Matrix
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import corrected
from permmoe_simulation.study_tables import OUTCOME_UNIT, ROUNDS, SITE_TIMES, StudyTable, real, text, whole

FORGETTING = StudyTable(
    "forgetting",
    "a regime's model after somebody withdrew: as it was, trained anew without them, or trained on without them",
    (
        *text("regime", "who", "how", "method"),
        *whole("withdrew", unit="patients, over all seeds, each once"),
        *real("rounds", unit="that forgetting took, mean over seeds"),
        *real("megabytes", unit="to and from all sites in these, mean over seeds"),
        *real("site_seconds", unit="of work at all sites together in these, mean over seeds"),
        *real("rmse", unit=f"of all test patients, {OUTCOME_UNIT}"),
        *real("difference", "lower", "upper", unit=f"RMSE against the model as it was, {OUTCOME_UNIT}"),
        *real("p_holm"),
        *real("attack", unit="share of pairs in which the attack is right"),
        *real("more", "more_lower", "more_upper", unit="attack against the model that was trained anew"),
        *real("more_p_holm"),
    ),
)
KEPT, ANEW, ON = "as it was", "trained anew", "trained on"
WHO = {"five": "five patients of a hospital", "twentieth": "a twentieth of all patients", "hospital": "a hospital"}


@dataclass(frozen=True)
class After:
    """A cell's model after a withdrawal."""

    tested: Sequence[str]
    squared: Matrix
    """Of test patients, with each combination."""
    right: Mapping[str, float]
    """Of each patient who ever trained: the share of test patients on whom the model errs more."""
    withdrew: frozenset[str]
    costs: tuple[float, float, float]
    """Rounds, megabytes, seconds of work at all sites."""


def after_of(cell: FinishedCell) -> After:
    """What a cell of a method that forgets keeps."""
    tested, squared = _squared_errors(cell, PREDICTIONS)
    trained, errors = _squared_errors(cell, TRAINED)
    others = np.sort(_with_all_they_have(squared))
    own = _with_all_they_have(errors)
    right = 1 - (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / (2 * len(others))
    with np.load(cell.folder / TRAINED) as saved:
        withdrew: Bool[np.ndarray, " visit"] = np.asarray(saved[WITHDREW])
    return After(
        tested,
        squared,
        dict(zip(trained, right.tolist(), strict=True)),
        frozenset(subject for subject, is_gone in zip(trained, withdrew, strict=True) if is_gone),
        _costs(cell),
    )


def _squared_errors(cell: FinishedCell, file: str) -> tuple[list[str], Matrix]:
    with np.load(cell.folder / file) as saved:
        return saved["subject"].tolist(), (saved["prediction"] - saved["target"][:, None]) ** 2


def _with_all_they_have(squared: Matrix) -> Float[np.ndarray, " visit"]:
    """The error of each visit with all of its modalities: combinations come by size, the largest that it has last."""
    last = squared.shape[1] - 1 - np.argmax(~np.isnan(squared[:, ::-1]), axis=1)
    return np.asarray(squared[np.arange(len(squared)), last])


def _costs(cell: FinishedCell) -> tuple[float, float, float]:
    rounds = pd.read_csv(cell.folder / ROUNDS.file_name)
    bytes_ = float(rounds["bytes_down"].sum() + rounds["bytes_up"].sum())
    return float(rounds["round"].nunique()), bytes_ / 1e6, float(rounds[list(SITE_TIMES)].to_numpy().sum())


def forgetting_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of FORGETTING."""
    return forgetting_in(done.cells)


def forgetting_in(cells: Sequence[FinishedCell]) -> pd.DataFrame:
    """Rows of FORGETTING; none of a study without methods that forget."""
    found: dict[str, dict[tuple[str, str], dict[int, After]]] = defaultdict(lambda: defaultdict(dict))
    names: dict[tuple[str, str, str], str] = {}
    for cell in cells:
        if forgets := cell.card()["cell"]["method"].get("forgets"):
            who = forgets["who"]
            how = KEPT if who == "nobody" else ON if forgets["continued_rounds"] else ANEW
            found[cell.regime][who, how][cell.seed] = after_of(cell)
            names[cell.regime, who, how] = cell.method
    rows = [row for regime, models in found.items() for row in _rows(regime, models, names)]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    table["p_holm"] = corrected(table.pop("p_value").tolist())
    table["more_p_holm"] = corrected(table.pop("more_p_value").tolist())
    return table[FORGETTING.required_columns]


def _rows(
    regime: str, models: Mapping[tuple[str, str], Mapping[int, After]], names: Mapping[tuple[str, str, str], str]
) -> Iterator[dict[str, object]]:
    kept = models.get(("nobody", KEPT))
    for who in WHO:
        anew = models.get((who, ANEW))
        if not (kept and anew):
            continue
        for how, own in ((KEPT, kept), (ANEW, anew), (ON, models.get((who, ON)))):
            if own is None:
                continue
            seeds = sorted(kept.keys() & anew.keys() & own.keys())
            errors, before = (_by_combination([of[seed] for seed in seeds]) for of in (own, kept))
            gone = {seed: anew[seed].withdrew for seed in seeds}
            attacks, standard = (average_figure(_attacked(of, gone)) for of in (own, anew))
            more = contrast([attacks, standard], [1.0, -1.0])
            reached, change = judged_interval(more), paired_difference(errors, before)
            costs = np.mean([own[seed].costs for seed in seeds], axis=0) if how != KEPT else np.zeros(3)
            yield {
                "regime": regime, "who": who, "how": how,
                "method": names[regime, "nobody" if how == KEPT else who, how],
                "withdrew": len(frozenset().union(*gone.values())),
                "rounds": costs[0], "megabytes": costs[1], "site_seconds": costs[2],
                "rmse": mean_rmse_interval(errors).estimate,
                "difference": change.estimate, "lower": change.lower, "upper": change.upper,
                "p_value": change.p_value if how != KEPT else np.nan,
                "attack": attacks.value,
                "more": more.value, "more_lower": reached.lower, "more_upper": reached.upper,
                "more_p_value": judged_p_value(more) if how != ANEW else np.nan,
            }  # fmt: skip


def _by_combination(models: Sequence[After]) -> list[Float[np.ndarray, "seed subject"]]:
    """Squared errors of test patients by combination; NaN where a seed did not test somebody."""
    column = {subject: i for i, subject in enumerate(sorted({s for one in models for s in one.tested}))}
    errors = np.full((models[0].squared.shape[1], len(models), len(column)), np.nan)
    for i, one in enumerate(models):
        errors[:, i, [column[s] for s in one.tested]] = one.squared.T
    return list(errors)


def _attacked(models: Mapping[int, After], gone: Mapping[int, frozenset[str]]) -> Float[np.ndarray, "seed subject"]:
    """How often the attack is right about each patient who withdrew; NaN where a seed's model had not seen them."""
    column = {subject: i for i, subject in enumerate(sorted(frozenset().union(*gone.values())))}
    right = np.full((len(gone), len(column)), np.nan)
    for i, (seed, subjects) in enumerate(gone.items()):
        for subject in subjects:
            right[i, column[subject]] = models[seed].right[subject]
    return right


class Words(NamedTuple):
    """A model after a withdrawal, in words for a table."""

    regime: str
    who: str
    how: str
    costs: tuple[str, str, str]
    """Rounds, megabytes and seconds at sites; dashes where nothing was done."""
    rmse: str
    change: str
    is_beyond_chance: bool
    attack: str
    more: str
    is_remembered: bool
    """Whether the attack is right more or less often than about the model that was trained anew, beyond chance."""


def forgetting_words(view: View) -> list[Words]:
    """A row for each regime, withdrawal and model; none of a study from which nobody withdraws."""
    rows = view.study.table(FORGETTING)
    return [] if rows is None else [_words(row) for row in rows.itertuples()]


def _words(row: Any) -> Words:
    is_kept = row.how == KEPT
    figures = f"{row.rounds:.0f}", number(row.megabytes), number(row.site_seconds)
    return Words(
        row.regime,
        WHO[row.who],
        row.how,
        ("–", "–", "–") if is_kept else figures,
        number(row.rmse),
        "–" if is_kept else f"{signed(row.difference, 3)} ({interval(row.lower, row.upper, 3) or 'not judged'})",
        bool(row.p_holm < LEVEL),
        f"{row.attack:.1%}",
        "–" if row.how == ANEW else _points(row.more, row.more_lower, row.more_upper),
        bool(row.more_p_holm < LEVEL),
    )


def _points(value: float, low: float, high: float) -> str:
    return f"{signed(100 * value, 1)} ({interval(100 * low, 100 * high, 1) or 'not judged'})"


COLUMNS = ("Rounds", "MB", "Seconds at sites", "RMSE", "Change in RMSE", "Attack is right", "More than anew, points")


def forgetting_section(view: View) -> Section | None:
    """What forgetting costs and what is remembered; None where nobody withdraws."""
    rows = forgetting_words(view)
    if not rows:
        return None

    def build(regime: str) -> list[Item]:
        lines = [
            [
                Entry(row.who), Entry(row.how), *map(Entry, row.costs), Entry(row.rmse),
                Entry(row.change, is_strong=row.is_beyond_chance), Entry(row.attack),
                Entry(row.more, is_strong=row.is_remembered),
            ]
            for row in rows if row.regime == regime
        ]  # fmt: skip
        title = (
            f"{regime}: what forgetting took, RMSE of all test patients averaged over combinations in {view.unit}, and "
            "how often the attack tells who withdrew from a test patient."
        )
        return [Table(title, ["Who withdraws", "The model", *COLUMNS], lines)]

    return Section("forgetting", "What forgetting costs", [Text(INTRODUCTION), *by_regime(view, build)])


INTRODUCTION = (
    "After a federation has trained with everybody, some withdraw, drawn by the seed. Either the model is trained anew "
    "without them from its first weights, which is the model of a federation that never had them, bit by bit; or the "
    "finished model is trained on without them, which is cheaper and undoes nothing. The attack takes a patient on "
    "whom the model errs little for one that it was trained on; it is held against the model that was trained anew. "
    "Bold is beyond chance after Holm's correction over all changes, and over all attacks."
)


def forgetting_chapter(view: View) -> list[str]:
    """The same as lines of a page of results."""
    rows = forgetting_words(view)
    if not rows:
        return []

    def strong(words: str, is_strong: bool) -> str:
        return f"**{words}**" if is_strong else words

    lines = [
        f"{INTRODUCTION} RMSE in {view.unit}.\n",
        f"| who withdraws | the model | {' | '.join(COLUMNS)} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
    ]
    for row in rows:
        change, more = strong(row.change, row.is_beyond_chance), strong(row.more, row.is_remembered)
        figures = (*row.costs, row.rmse, change, row.attack, more)
        lines.append(f"| {row.who} | {row.how} | {' | '.join(figures)} |")
    return [*lines, ""]


FORGETTING_SECTION = ReportSection(forgetting_section, {FORGETTING: forgetting_rows})
