"""What the sites of a survey told together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """Sums over sites; each number is of patients of whom as much is told."""

    answers: Mapping[str, int]
    """Question (`Described.name`) -> patients who are told to be among those of it."""
    hospitals: Mapping[str, int] = field(default_factory=dict)
    """Question -> how many sites have such patients; empty after a secure sum, where nobody learns it."""
    sites: tuple[str, ...] = ()
    """Those who answered."""
