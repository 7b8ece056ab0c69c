"""What the page of one prediction says, in words and numbers; nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from permmoe.calibration.intervals import BY_COMBINATION, BY_SEVERITY, PredictionInterval
from permmoe.config import ModelConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.kinds import kind_of
from permmoe.data.outcomes import Outcomes
from permmoe.data.quarantine import Quarantined
from permmoe.data.visits import Visit
from permmoe.explanation.atlas import REGIONS
from permmoe.explanation.places import Places
from permmoe.explanation.reasons import Reasons
from permmoe.modality import Combination, Modality
from permmoe.predict import Prediction, TrainedModel
from permmoe.preparation.quality.limits import MODALITY_NAMES
from permmoe.preparation.quality.rules import Judgement

NUMBERED = 7
"""Regions that get a number, a line of the table and a place on the pictures."""


@dataclass(frozen=True)
class Subject:
    """Whose page it is and all that is known for it; nothing of it leaves the page but what is shown."""

    model: TrainedModel
    card: Mapping[str, Any]
    outcomes: Outcomes | None
    visit: Visit
    """With the images that were predicted from, prepared."""
    prediction: Prediction
    cache: VolumeCache
    """That the prediction read its images through."""
    reasons: Reasons | None
    """None where the visit has more modalities than reasons can be given for."""
    judgements: Mapping[str, Judgement | None] = field(default_factory=dict)
    """Of each used image, by modality; None where nothing is recorded of its preparation."""
    left_out: tuple[Quarantined, ...] = ()
    """What was given and could not be used."""

    @property
    def config(self) -> ModelConfig:
        """The model's settings."""
        return self.model.config


@dataclass(frozen=True)
class Input:
    """A line of the table of what the prediction is from."""

    name: str
    state: Literal["used", "look", "refused", "absent"]
    words: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A line of the table of regions."""

    number: int | None
    name: str
    total: float
    by_scan: tuple[float, ...]


@dataclass(frozen=True)
class Regions:
    """Where in the scans the prediction comes from: the lines and the column of the average add up to it."""

    scans: Combination
    lines: tuple[Place, ...]
    total: Place

    @property
    def all_lines(self) -> tuple[Place, ...]:
        """The lines, and their sum as the last."""
        return (*self.lines, self.total)

    @property
    def numbered(self) -> tuple[str, ...]:
        """The regions that have a number, in its order."""
        return tuple(line.name for line in self.lines if line.number is not None)


def name_of(modality: str) -> str:
    """A modality as people write it."""
    return MODALITY_NAMES.get(modality, modality.replace("_", " "))


def listed(names: Iterable[str]) -> str:
    """`T1, FLAIR and Tau PET`."""
    *some, last = [name_of(name) for name in names]
    return f"{', '.join(some)} and {last}" if some else last


def inputs(subject: Subject) -> tuple[Input, ...]:
    """Every modality that the model knows, in its order."""
    refused: dict[str, Quarantined] = {item.modality: item for item in subject.left_out}
    return tuple(_input(subject, m, refused.get(m.name)) for m in subject.config.modalities)


def _input(subject: Subject, modality: Modality, refused: Quarantined | None) -> Input:
    name = name_of(modality.name)
    if modality.name not in subject.prediction.used:
        if refused is not None:
            return Input(name, "refused", "given, not used", (f"{refused.reason}: {refused.reason.remedy}",))
        return Input(name, "absent", "not there; the model puts in what it learned for patients without it")
    if not kind_of(modality).is_image:
        return Input(name, "used", "used")
    notes, judgement = [], subject.judgements.get(modality.name)
    if modality.name in subject.prediction.unlike_training:
        notes.append("unlike the model's training images: look at it before you believe the prediction")
    elif modality.name in subject.model.unknown:
        notes.append("not compared: the model's card does not say what its training images are like")
    if judgement is None:
        notes.append("its preparation left no record to judge it by")
    else:
        notes += judgement.reasons or ["nothing in the record of its preparation speaks against it"]
    doubtful = modality.name in subject.prediction.unlike_training or bool(judgement and judgement.findings)
    return Input(name, "look" if doubtful else "used", "used; look at it" if doubtful else "used", tuple(notes))


def behind(interval: PredictionInterval, used: Combination) -> str:
    """Whose errors an interval is from."""
    hospitals = f"{interval.sites} hospital{'' if interval.sites == 1 else 's'}"
    who = f"{interval.visits} patients at {hospitals}"
    if interval.basis == BY_COMBINATION:
        return f"{who}, predicted from just {listed(used)}"
    if interval.basis == BY_SEVERITY:
        return f"{who}, as ill at the visit and predicted from just {listed(used)}"
    return f"{who}, predicted from any scans: too few had just {listed(used)}"


def horizon(card: Mapping[str, Any]) -> str:
    """Over what time the change is; empty where the card does not say."""
    months = card.get("horizon_months")
    if not isinstance(months, list) or not months or not all(isinstance(m, int | float) for m in months):
        return ""
    low, high = min(months), max(months)
    return f"{low:g} months" if low == high else f"{low:g} to {high:g} months"


def regions(places: Places, images: Sequence[str]) -> Regions | None:
    """The regions with the largest values, the rest together; None without an image."""
    scans = tuple(name for name in images if name in places.parts)
    if not scans:
        return None
    totals = {region: sum(places.parts[scan][region] for scan in scans) for region in REGIONS[:-1]}
    # By absolute values: where one scan raises the prediction and another lowers it, both are to be seen.
    largest = sorted(totals, key=lambda region: -sum(abs(places.parts[scan][region]) for scan in scans))[:NUMBERED]
    lines = [
        Place(number, region, totals[region], tuple(places.parts[scan][region] for scan in scans))
        for number, region in enumerate(largest, start=1)
    ]
    of_scans = tuple(places.of(scan) for scan in scans)
    total = Place(None, "all of the scans", sum(of_scans), of_scans)
    shown = [sum(column) for column in zip(*(line.by_scan for line in lines), strict=True)]
    rest = tuple(whole - part for whole, part in zip(of_scans, shown, strict=True))
    lines.append(Place(None, "everywhere else", sum(rest), rest))
    return Regions(scans, tuple(lines), total)


def facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    """What the model's card says, a line each; what it does not say is not there."""
    card, config = subject.card, subject.config
    found = [("Predicts", f"the change in {config.score.in_words}" + _over(card))]
    if subject.outcomes:
        found.append(("Trained on", f"{subject.outcomes.visits} patients"))
    elif "plan" in card:
        found.append(("Trained", f"by a federation of hospitals, {card.get('round', '?')} rounds"))
    if subject.model.usual:
        counts = ", ".join(f"{like.images} {name_of(name)}" for name, like in subject.model.usual.items())
        found.append(("Its training images", counts))
    if prepared := {str(m.prepared) for m in config.modalities if m.prepared is not None}:
        found.append(("Reads images with", "; or ".join(sorted(prepared))))
    metrics = card.get("metrics")
    if isinstance(metrics, dict) and isinstance(error := metrics.get("test_mean_rmse"), float):
        words = f"{error:.2f} {config.score.unit}, root mean square over its test patients, mean of all combinations"
        found.append(("Typical error", words))
    if calibration := subject.model.calibration:
        found.append(("Intervals from", f"{calibration.visits[0]} patients: {calibration.source or 'not told whose'}"))
    versions = card.get("versions")
    if isinstance(versions, dict) and "permmoe" in versions:
        found.append(("Made with", f"permmoe {versions['permmoe']}"))
    for words, key in (("Weights", "tensors_sha256"), ("Training data", "data_digest")):
        if isinstance(digest := card.get(key), str):
            found.append((words, digest[:12]))
    return (*found, ("Settings", config.digest()[:12]))


def _over(card: Mapping[str, Any]) -> str:
    return f" over {told}" if (told := horizon(card)) else ""
