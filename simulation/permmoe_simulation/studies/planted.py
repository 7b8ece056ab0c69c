"""Patients whose truth is known because it was planted: what a study finds among them shows what it can find.

Each modality is a table of standard normal numbers, independent of the other modalities'. A modality explains a
declared share of the outcome's variance. Part of it is linear in the modality's numbers; the rest is routed: the
signs of the modality's first two numbers say to which of four types a patient belongs, each type has a direction of its
own, and the four directions cancel, so that no linear model sees anything of it. What is left of the variance is noise.

So the smallest error that any method can reach is known for every combination (`attainable_rmse`), and so is what a
modality is worth, what a linear model has to miss, and what a site that was shifted does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, field_validator

from permmoe.config import Configuration
from permmoe.data.kinds import kind_of
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, nearest
from permmoe.modality import Combination, Modality

TYPE_COLUMNS = 2
"""Columns whose signs tell the type of a patient."""
FEWEST_COLUMNS = TYPE_COLUMNS + 2


class PlantedConfig(Configuration):
    """What was planted, and among how many."""

    patients: int = Field(400, ge=2)
    sites: int = Field(8, ge=1, description="of equal size")
    explained: dict[str, float] = Field(min_length=1, description="share of the outcome's variance, by modality")
    routed: float = Field(0.0, ge=0, le=1, description="part of each share that depends on the patient's type")
    outcome_sd: float = Field(2.0, gt=0, description="standard deviation of the outcome, points")
    scanner_shift: float = Field(0.0, description="added to every number of the first site, in their SD")
    outcome_shift: float = Field(0.0, description="added to every outcome of the first site, points")
    seed: int = Field(0, ge=0)

    @field_validator("explained")
    @classmethod
    def _leaves_noise(cls, shares: dict[str, float]) -> dict[str, float]:
        if min(shares.values()) < 0 or sum(shares.values()) >= 1:
            raise ValueError("shares of the variance are 0 or more and leave some of it to noise")
        return shares


def attainable_rmse(config: PlantedConfig, combination: Combination, *, linear: bool = False) -> float:
    """The smallest RMSE, points, of any method (or of any linear one) that sees a combination, at sites not shifted."""
    seen = sum(config.explained.get(name, 0.0) for name in combination)
    return config.outcome_sd * float(np.sqrt(1 - seen * (1 - config.routed if linear else 1)))


@dataclass(frozen=True)
class Planted:
    """The patients as arrays."""

    numbers: dict[str, Float[np.ndarray, "patient number"]]
    """By modality."""
    outcome: Float[np.ndarray, " patient"]
    """Points."""
    site: Int[np.ndarray, " patient"]


def planted(config: PlantedConfig, modalities: Sequence[Modality]) -> Planted:
    """Draw the patients. Raises ConfigurationError where nothing can be planted in a modality."""
    _require_room(config, modalities)
    generator = np.random.default_rng(config.seed)
    site = np.arange(config.patients) % config.sites
    is_shifted = site == 0
    outcome = np.zeros(config.patients)
    numbers = {}
    for modality in modalities:
        drawn = generator.standard_normal((config.patients, len(modality.columns)))
        directions = _directions(len(modality.columns) - TYPE_COLUMNS, generator)
        share = config.explained.get(modality.name, 0.0)
        outcome += np.sqrt(share * (1 - config.routed)) * _linear(drawn, directions)
        outcome += np.sqrt(share * config.routed) * _routed(drawn, directions)
        numbers[modality.name] = drawn + config.scanner_shift * is_shifted[:, None]
    outcome += np.sqrt(1 - sum(config.explained.values())) * generator.standard_normal(config.patients)
    return Planted(numbers, config.outcome_sd * outcome + config.outcome_shift * is_shifted, site)


def planted_visits(config: PlantedConfig, modalities: Sequence[Modality]) -> VisitTable:
    """The patients as visits, each with all modalities. Raises ConfigurationError as `planted`."""
    drawn = planted(config, modalities)
    width = len(str(config.patients - 1))
    return VisitTable(
        tuple(
            Visit(
                f"planted-{row:0{width}d}", f"site-{site:02d}", "visit", 0.0, outcome, 24.0,
                tables={name: tuple(numbers[row].tolist()) for name, numbers in drawn.numbers.items()},
            )
            for row, (site, outcome) in enumerate(zip(drawn.site.tolist(), drawn.outcome.tolist(), strict=True))
        )
    )  # fmt: skip


def _require_room(config: PlantedConfig, modalities: Sequence[Modality]) -> None:
    known = [modality.name for modality in modalities]
    for name in config.explained:
        if name not in known:
            raise ConfigurationError(f"nothing can be planted in {name!r}; {nearest(name, known)}")
    for modality in modalities:
        if kind_of(modality).is_image or len(modality.columns) < FEWEST_COLUMNS:
            raise ConfigurationError(
                f"modality {modality.name}: planted patients have numbers; "
                f"give it kind: tabular and at least {FEWEST_COLUMNS} columns"
            )


def _directions(size: int, generator: np.random.Generator) -> Float[np.ndarray, "2 column"]:
    """Two directions of unit length, drawn anew for each modality."""
    drawn = generator.standard_normal((2, size))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _linear(
    numbers: Float[np.ndarray, "patient number"], directions: Float[np.ndarray, "2 column"]
) -> Float[np.ndarray, " patient"]:
    return np.asarray(numbers[:, TYPE_COLUMNS:] @ directions[0])


def _routed(
    numbers: Float[np.ndarray, "patient number"], directions: Float[np.ndarray, "2 column"]
) -> Float[np.ndarray, " patient"]:
    """Along the first direction or the second, by the first sign; forwards or backwards, by the second."""
    along = np.where(numbers[:, 0] > 0, *(numbers[:, TYPE_COLUMNS:] @ direction for direction in directions))
    return np.asarray(np.sign(numbers[:, 1]) * along)
