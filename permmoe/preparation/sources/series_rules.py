"""Which series are taken, and as what: rules that can be read and overridden, `series_rules.yaml` in this folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from permmoe.config import Configuration, read_config
from permmoe.data.reasons import Reason
from permmoe.tracers import canonical_tracer

SHIPPED = Path(__file__).with_name("series_rules.yaml")
Range = tuple[float, float]


@dataclass(frozen=True)
class SeriesFacts:
    """What a series says of itself; empty or None where it does not."""

    description: str
    """Description, protocol and sequence name."""
    scanner: str = ""
    """DICOM's Modality: MR, PT or any other."""
    image_type: tuple[str, ...] = ()
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    repetition_time_ms: float | None = None
    is_3d: bool | None = None
    has_contrast: bool = False
    is_attenuation_corrected: bool | None = None


class SeriesRule(Configuration):
    """Conditions on a series, all of which must hold; those that are left out hold always."""

    description: tuple[str, ...] = Field((), description="patterns, one of which the description holds")
    not_description: tuple[str, ...] = Field((), description="patterns, none of which the description holds")
    image_type: tuple[str, ...] = Field((), description="words, one of which is in ImageType")
    scanner: Literal["", "MR", "PT"] = Field("", description="DICOM's Modality; not asked where it is not known")
    echo_time_ms: Range | None = Field(None, description="from and to")
    inversion_time_ms: Range | None = Field(None, description="from and to")
    repetition_time_ms: Range | None = Field(None, description="from and to")
    is_3d: bool | None = Field(None, description="acquired as a volume")
    has_contrast: bool | None = Field(None, description="a contrast agent was given")
    is_attenuation_corrected: bool | None = Field(None, description="PET; an unknown value is neither")
    tracer: str = Field("", description="pet: the tracer that the series shows, whatever its header says")

    @field_validator("description", "not_description")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @field_validator("tracer")
    @classmethod
    def _is_known(cls, tracer: str) -> str:
        name = canonical_tracer(tracer)
        if tracer and name is None:
            raise ValueError(f"no tracer {tracer!r} is known for amyloid or tau; name it as AV45 or AV1451")
        return name or ""

    def holds(self, facts: SeriesFacts) -> bool:
        """Whether all conditions hold for a series."""
        text = re.sub(r"[_\s]+", " ", facts.description)
        return (
            (not self.description or any(_pattern(p).search(text) for p in self.description))
            and not any(_pattern(p).search(text) for p in self.not_description)
            and (not self.image_type or bool({word.upper() for word in self.image_type} & {*facts.image_type}))
            and (not self.scanner or facts.scanner in ("", self.scanner))
            and _lies(facts.echo_time_ms, self.echo_time_ms)
            and _lies(facts.inversion_time_ms, self.inversion_time_ms)
            and _lies(facts.repetition_time_ms, self.repetition_time_ms)
            and (self.is_3d is None or facts.is_3d == self.is_3d)
            and (self.has_contrast is None or facts.has_contrast == self.has_contrast)
            and (
                self.is_attenuation_corrected is None or facts.is_attenuation_corrected == self.is_attenuation_corrected
            )
        )


class ExcludedSeries(SeriesRule):
    """Series that are left out, and why."""

    reason: Literal["localiser", "derived", "other"] = Field(..., description="what the list of what is left out says")


@dataclass(frozen=True)
class Kind:
    """What a series is taken for."""

    name: Literal["t1", "flair", "pet"]
    rank: int
    """The place of its rule among those of its kind; 0 is preferred."""
    tracer: str = ""
    """The tracer that the rule states; empty where it states none."""


class SeriesRules(Configuration):
    """The rules by which series are chosen."""

    excluded: tuple[ExcludedSeries, ...] = Field(..., description="left out, whatever else holds")
    t1: tuple[SeriesRule, ...] = Field(..., description="T1-weighted MRI, the best first")
    flair: tuple[SeriesRule, ...] = Field(..., description="FLAIR, the best first")
    pet: tuple[SeriesRule, ...] = Field(..., description="PET, the best first; its tracer tells the modality")

    def kind_of(self, facts: SeriesFacts) -> Kind | Reason:
        """What a series is taken for, or why it is left out."""
        for excluded in self.excluded:
            if excluded.holds(facts):
                return _REASONS[excluded.reason]
        if facts.scanner in ("", "MR") and (rank := _first(self.flair, facts)) is not None:
            return Kind("flair", rank)
        if facts.scanner in ("", "MR") and (rank := _first(self.t1, facts)) is not None:
            return Kind("t1", rank)
        if facts.scanner in ("", "PT") and (rank := _first(self.pet, facts)) is not None:
            return Kind("pet", rank, self.pet[rank].tracer)
        return Reason.OTHER_SERIES


def read_rules(path: Path | None = None) -> SeriesRules:
    """The shipped rules, with the sections of a file in the place of theirs.

    Raises ConfigurationError for a file that cannot be used.
    """
    shipped = read_config(SHIPPED, SeriesRules)
    if path is None:
        return shipped
    given = read_config(path, _GivenRules)
    return shipped.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


class _GivenRules(Configuration):
    """A file of rules, which may lack sections."""

    excluded: tuple[ExcludedSeries, ...] | None = None
    t1: tuple[SeriesRule, ...] | None = None
    flair: tuple[SeriesRule, ...] | None = None
    pet: tuple[SeriesRule, ...] | None = None


_REASONS = {"localiser": Reason.LOCALISER, "derived": Reason.DERIVED, "other": Reason.OTHER_SERIES}


def _first(rules: Sequence[SeriesRule], facts: SeriesFacts) -> int | None:
    return next((rank for rank, rule in enumerate(rules) if rule.holds(facts)), None)


def _lies(value: float | None, bounds: Range | None) -> bool:
    return bounds is None or (value is not None and bounds[0] <= value <= bounds[1])


@lru_cache(maxsize=1000)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)
