"""Predictions and what is known of their certainty, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from permmoe.calibration.calibration import Calibration, OwnPatients
from permmoe.calibration.intervals import LEVELS, POOLED, PredictionInterval
from permmoe.calibration.next_scan import NextScan
from permmoe.calibration.score_counts import least_visits
from permmoe.config import HospitalLine, ModelConfig, Score
from permmoe.data.quarantine import write_csv_atomically
from permmoe.modality import Combination, combination_name
from permmoe.predict import Prediction

NO_CALIBRATION = (
    "no intervals: the model's card holds no calibration; `permmoe calibrate` makes one from visits with outcomes"
)

MEMBER_COLUMNS = ("lowest_member", "highest_member")
"""Of an ensemble the least and the most that a member predicts, points; empty of a single model."""


def print_prediction(console: Console, p: Prediction, score: Score) -> None:
    """One visit's prediction with its intervals, and all that is doubtful about both."""
    change = f"predicted change in {escape(score.name)} [bold]{p.delta_cdrsb:+.2f}[/] {escape(score.unit)}"
    ends = ", ".join(f"{i.low:+.1f} to {i.high:+.1f} ({i.level:.0%})" for i in p.intervals)
    console.print(f"{p.subject_id}: {change}{'; ' if ends else ''}{ends}", highlight=False)
    for sentence in calibrated_on(p.intervals, p.used):
        console.print(f"  {sentence}", highlight=False)
    imputed = ", ".join(p.imputed) or "none"
    console.print(f"  from {', '.join(p.used)}; missing: {imputed}", highlight=False)
    if p.by_member:
        console.print(f"  {members_say(p)} {escape(score.unit)}", highlight=False)
    for scan in p.next_scans:
        console.print(f"  {worth(scan, score)}", highlight=False)
    if p.unlike_training:
        console.print(f"  unlike the training's images: {', '.join(p.unlike_training)}", highlight=False)
    if p.outside_calibration:
        why = "; ".join(p.outside_calibration)
        console.print(f"  outside what the intervals were calibrated on: {why}", highlight=False)


def calibrated_on(intervals: Sequence[PredictionInterval], used: Combination) -> list[str]:
    """Whose errors the intervals are from: `calibrated on 212 people with t1 and flair at 6 hospitals`."""
    having = _and(used)
    sentences = []
    for (basis, visits, sites), group in groupby(intervals, key=lambda i: (i.basis, i.visits, i.sites)):
        levels = _and([f"{i.level:.0%}" for i in group])
        which = f"{levels} " if len({(i.basis, i.visits) for i in intervals}) > 1 else ""
        at = f" at {sites} hospitals" if sites > 1 else ""
        if basis == POOLED:
            who = f"all {visits} people{at}, whatever they have: too few have {having}"
        else:
            alike = " and a like score at the visit" if basis != "combination" else ""
            who = f"{visits} people with {having}{alike}{at}"
        sentences.append(f"{which}calibrated on {who}")
    return sentences


def members_say(p: Prediction) -> str:
    """How far the models of an ensemble are apart: `the mean of 3 models, which predict +0.9 to +1.4`."""
    return f"the mean of {len(p.by_member)} models, which predict {min(p.by_member):+.2f} to {max(p.by_member):+.2f}"


def worth(scan: NextScan, score: Score) -> str:
    """What a scan that the patient lacks would bring, in a sentence."""
    width = f"{abs(scan.narrowing):.2f} {'narrower' if scan.narrowing >= 0 else 'wider'}"
    error = f"{abs(scan.error_change):.2f} {'smaller' if scan.error_change <= 0 else 'larger'}"
    return (
        f"with {scan.modality} the {LEVELS[0]:.0%} interval would on average be {width} and the error {error} "
        f"({escape(score.unit)}; {scan.visits} people who have both)"
    )


def said_of_calibration(calibration: Calibration, model: ModelConfig) -> list[str]:
    """What a hospital's own patients changed, and which combinations have intervals of their own, in sentences."""
    if calibration.own_patients is not None and model.at_hospital is not None:
        return _said_of_hospital(calibration.own_patients, model.at_hospital, model.score)
    n = {name: sum(count for _, count in rows[0]) for name, rows in calibration.scores.items()}
    sentences = [f"calibrated on {calibration.visits[0]} people: {calibration.source}"]
    for level in LEVELS:
        least = least_visits(level)
        few = [f"{name} ({count})" for name, count in n.items() if count < least]
        own = f"{level:.0%} intervals: {len(n) - len(few)} of {len(n)} combinations by themselves"
        if calibration.visits[0] < least:
            sentences.append(f"{level:.0%} intervals: none, they need {least} people")
        elif few:
            sentences.append(f"{own}; pooled, for fewer than {least} people: {', '.join(few)}")
        else:
            sentences.append(own)
    if calibration.chose_the_weights:
        sentences.append(
            "these visits also chose the epoch whose weights are kept (keep: best): intervals may be short"
        )
    return sentences


def _said_of_hospital(own: OwnPatients, line: HospitalLine, score: Score) -> list[str]:
    """In sentences."""
    return [
        f"calibrated on {own.patients} people of this hospital, together with those who calibrated the model before",
        f"predictions: {line.intercept:+.2f} {escape(score.unit)} and {line.slope:.2f} times what the model predicts",
        f"intervals: {own.widening:.2f} times as long as the model's own",
        *(
            f"{name}: read as it was scanned, for too few of them have it to tell what the hospital's scanners add; "
            "predictions read it so, too"
            for name in own.as_scanned
        ),
    ]


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a row a visit, readable by its owner only. Columns of intervals are empty where there is none."""
    columns = [f"{end}_{level:.0%}".rstrip("%") for level in LEVELS for end in ("low", "high", "visits", "basis")]
    rows = []
    for p in predictions:
        by_level = {i.level: (i.low, i.high, i.visits, i.basis) for i in p.intervals}
        ends = [value for level in LEVELS for value in by_level.get(level, ("", "", "", ""))]
        doubts = "; ".join(p.outside_calibration)
        apart = (min(p.by_member), max(p.by_member)) if p.by_member else ("", "")
        rows.append(
            [p.subject_id, p.delta_cdrsb, combination_name(p.used), combination_name(p.imputed), *ends, doubts, *apart]
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("subject_id", "predicted_change", "used", "imputed", *columns, "outside_calibration", *MEMBER_COLUMNS)
    write_csv_atomically(path, names, rows)


def _and(names: Sequence[str]) -> str:
    """`t1, flair and tau`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
