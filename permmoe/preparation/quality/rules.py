"""Judge images by their metrics: against absolute limits, and against the other images of their modality.

An image has `failed` where a metric is beyond what is possible; only limits can say so, never the comparison with
others, since a set of good images has outliers, too. A person should `look` where a metric is beyond what is usual, or
far from the median of the others of its modality: beyond `OUTLIER` robust standard deviations (1.4826 times the median
absolute deviation) on the suspicious side. Fewer than `LEAST_IMAGES` images of a modality do not tell what is usual.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, isnan

import numpy as np

from permmoe.data.reasons import Reason
from permmoe.preparation.quality.limits import MEASURES, Limits, Measure
from permmoe.preparation.quality.metrics import ImageMetrics

LEAST_IMAGES = 20
OUTLIER = 6.0
YES_OR_NO = ("is_mirrored", "follows_t1")
"""Measures that are no numbers."""
NORMAL_MAD = 1.4826
"""By this factor a normal distribution's standard deviation exceeds its median absolute deviation."""


class Verdict(StrEnum):
    """What became of an image; the worst of its findings."""

    GOOD = "good"
    LOOK = "look"
    FAILED = "failed"


SEVERITY = (Verdict.GOOD, Verdict.LOOK, Verdict.FAILED)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an image, or may be."""

    verdict: Verdict
    field: str
    """Of ImageMetrics."""
    text: str
    """What is how far from what is expected, and what to do; names no subject."""
    reason: Reason | None
    """Why the image is quarantined; None where it only stands out."""


@dataclass(frozen=True)
class Judgement:
    """The verdict on an image, with all that speaks against it: failures first."""

    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings; good where there is none."""
        return max((finding.verdict for finding in self.findings), key=SEVERITY.index, default=Verdict.GOOD)

    @property
    def reason(self) -> Reason | None:
        """Why a failed image is left out; None for others."""
        failures = (finding for finding in self.findings if finding.verdict is Verdict.FAILED)
        return next((finding.reason for finding in failures), None)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The findings in words."""
        return tuple(finding.text for finding in self.findings)


def judge(images: Sequence[ImageMetrics]) -> list[Judgement]:
    """A judgement of each image, in the same order: by limits, and where there are enough by the others' values."""
    own = [judge_alone(image) for image in images]
    standing_out = _outliers(images, [judgement.verdict is not Verdict.FAILED for judgement in own])
    return [_sorted(alone.findings + others) for alone, others in zip(own, standing_out, strict=True)]


def judge_alone(image: ImageMetrics) -> Judgement:
    """A judgement by limits alone, for a single image."""
    found = []
    for measure in MEASURES:
        limits = measure.limits_for(image.modality, has_t1=image.follows_t1 is not False)
        value = value_of(image, measure)
        if limits is not None and value is not None and (finding := _against(measure, limits, value)):
            found.append(finding)
    return _sorted(tuple(found))


def value_of(image: ImageMetrics, measure: Measure) -> float | None:
    """An image's value of a measure as a number; None where it has none."""
    value = getattr(image, measure.field)
    return None if value is None else float(value)


def _against(measure: Measure, limits: Limits, value: float) -> Finding | None:
    """What a value beyond its limits says; NaN is beyond all of them."""
    (low, high), (lowest, highest) = limits.usual, limits.possible
    if low <= value <= high:
        return None
    has_failed = not lowest <= value <= highest
    verdict = Verdict.FAILED if has_failed else Verdict.LOOK
    expected = f"at least {measure.shown(low)}" if value < low else f"at most {measure.shown(high)}"
    return Finding(
        verdict, measure.field, _sentence(measure, value, f"{expected} expected; {limits.advice}"), limits.reason
    )


def _sentence(measure: Measure, value: float, rest: str) -> str:
    title = measure.title[0].upper() + measure.title[1:]
    if measure.field in YES_OR_NO:
        return f"{title}: {'yes' if value else 'no'}; {rest.split('; ', 1)[1]}"
    return f"{title}: {'not a number' if isnan(value) else measure.shown(value)}, {rest}"


def _outliers(images: Sequence[ImageMetrics], is_usable: Sequence[bool]) -> list[tuple[Finding, ...]]:
    """For each image, the measures by which it stands out from the usable ones of its modality."""
    found: list[list[Finding]] = [[] for _ in images]
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        groups[image.modality].append(row)
    for rows in groups.values():
        for measure in MEASURES:
            telling = [r for r in rows if images[r].follows_t1 is False or images[r].modality not in measure.silent_on]
            values = [(r, value_of(images[r], measure)) for r in telling]
            for row, finding in _outliers_by(measure, values, is_usable):
                found[row].append(finding)
    return [tuple(findings) for findings in found]


def _outliers_by(
    measure: Measure, values: Sequence[tuple[int, float | None]], is_usable: Sequence[bool]
) -> list[tuple[int, Finding]]:
    known = [(row, value) for row, value in values if value is not None and isfinite(value)]
    usable = np.array([value for row, value in known if is_usable[row]])
    if len(usable) < LEAST_IMAGES:
        return []
    middle = float(np.median(usable))
    spread = max(NORMAL_MAD * float(np.median(np.abs(usable - middle))), measure.least_spread)
    found = []
    for row, value in known:
        times = (value - middle) / spread
        if abs(times) > OUTLIER and measure.suspicious in ("both", "high" if times > 0 else "low"):
            others = f"{measure.shown(middle)} is the median of {len(usable)} such images"
            text = _sentence(measure, value, f"{others}; {abs(times):.0f} times the usual spread away")
            found.append((row, Finding(Verdict.LOOK, measure.field, text, None)))
    return found


def _sorted(findings: tuple[Finding, ...]) -> Judgement:
    """Failures first; of two findings about one metric the one by limits."""
    by_limits = {finding.field for finding in findings if finding.reason is not None}
    kept = [f for f in findings if f.reason is not None or f.field not in by_limits]
    return Judgement(tuple(sorted(kept, key=lambda finding: -SEVERITY.index(finding.verdict))))
