"""What a survey may tell of a patient, as bits: a set of facts is one number, and the facts that two share are `&`.

Counted at all; each modality; one group of severity; whether the outcome is known. Besides them a site keeps, and never
tells, the part of the split that a patient is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

from permmoe.federated.plan import RoundPlan
from permmoe.modality import Combination, all_combinations

COUNTED = 1
"""The fact that every patient who counts has, so that no set of facts is 0."""
PARTS = ("train", "validation", "test")
ANY = "any"
OUTCOMES = ("known", "unknown")


@dataclass(frozen=True)
class Described:
    """What is told of the patients of one number. They may have more modalities than these."""

    modalities: Combination = ()
    severity: int | None = None
    """The number of the group of severity; None: not told."""
    outcome: str = ANY
    """`known`, `unknown`, or `any`: not told."""

    @property
    def name(self) -> str:
        """As it travels, such as `t1+flair/1/known`."""
        severity = ANY if self.severity is None else str(self.severity)
        return f"{'+'.join(self.modalities) or ANY}/{severity}/{self.outcome}"

    def tells(self, other: Described) -> bool:
        """Whether patients of whom this is told are among those of whom `other` is asked."""
        return (
            set(other.modalities) <= set(self.modalities)
            and other.severity in (None, self.severity)
            and other.outcome in (ANY, self.outcome)
        )


@dataclass(frozen=True)
class Facts:
    """The facts of one survey, and their bits."""

    modalities: tuple[str, ...]
    bounds: tuple[float, ...]
    """Of the groups of severity; empty where there are none."""
    has_outcome: bool

    @classmethod
    def of(cls, plan: RoundPlan) -> Facts:
        """The facts that a survey asks for. The plan must be a survey's."""
        assert plan.survey is not None
        return cls(plan.model.names, plan.survey.severity, plan.survey.outcome)

    @property
    def n_severities(self) -> int:
        """How many groups of severity there are; 0 where the survey does not ask."""
        return len(self.bounds) + 1 if self.bounds else 0

    @cached_property
    def modality_bits(self) -> Mapping[str, int]:
        """The bit of each modality."""
        return {name: 2 << place for place, name in enumerate(self.modalities)}

    @cached_property
    def severity_bits(self) -> tuple[int, ...]:
        """The bit of each group of severity."""
        first = 1 + len(self.modalities)
        return tuple(1 << first + n for n in range(self.n_severities))

    @cached_property
    def outcome_bits(self) -> Mapping[str, int]:
        """The bits of a known and an unknown outcome; empty where the survey does not ask."""
        first = 1 + len(self.modalities) + self.n_severities
        return {name: 1 << first + n for n, name in enumerate(OUTCOMES)} if self.has_outcome else {}

    @cached_property
    def part_bits(self) -> Mapping[str, int]:
        """The bits of the parts of the split, which are never told."""
        first = 1 + len(self.modalities) + self.n_severities + 2
        return {name: 1 << first + n for n, name in enumerate(PARTS)}

    @cached_property
    def modality_mask(self) -> int:
        """All modalities."""
        return sum(self.modality_bits.values())

    @cached_property
    def severity_mask(self) -> int:
        """All groups of severity."""
        return sum(self.severity_bits)

    @cached_property
    def outcome_mask(self) -> int:
        """Both that may be told of an outcome."""
        return sum(self.outcome_bits.values())

    @cached_property
    def part_mask(self) -> int:
        """All parts of the split."""
        return sum(self.part_bits.values())

    def described(self, facts: int) -> Described:
        """What a set of facts tells; without the part of the split."""
        severity = [n for n, bit in enumerate(self.severity_bits) if facts & bit]
        outcome = [name for name, bit in self.outcome_bits.items() if facts & bit]
        return Described(
            tuple(name for name, bit in self.modality_bits.items() if facts & bit),
            severity[0] if severity else None,
            outcome[0] if outcome else ANY,
        )

    def severity_of(self, score: float) -> int:
        """The group of a score at the visit."""
        return sum(score >= bound for bound in self.bounds)

    def severity_name(self, number: int, score: str) -> str:
        """A group in words, such as `CDR-SB 0.5 to below 4.5`."""
        if number == 0:
            return f"{score} below {self.bounds[0]:g}"
        if number == len(self.bounds):
            return f"{score} {self.bounds[-1]:g} or more"
        low, high = list(pairwise(self.bounds))[number - 1]
        return f"{score} {low:g} to below {high:g}"

    def all_described(self) -> Iterator[Described]:
        """Everything that may be told, or asked, of a patient."""
        severities = (None, *range(self.n_severities))
        outcomes = (ANY, *self.outcome_bits)
        combinations = ((), *all_combinations(self.modalities))
        return (Described(*what) for what in product(combinations, severities, outcomes))
