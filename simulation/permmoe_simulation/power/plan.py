"""A power study as its YAML file declares it: which cohorts are planted, and what is claimed of each before it is run.

Every cohort is a study of its own, with the methods, the training and the statistics of a study's file; only the number
of patients, the number of hospitals and the cohort's seed are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from permmoe.config import Configuration, parse_config
from permmoe.errors import ConfigurationError, nearest
from permmoe.evaluation.intervals import FEWEST_SEEDS, FEWEST_SUBJECTS, why_not_judged
from permmoe_simulation.studies.study import Claim, StudyConfig, at_profile, data_source, laid_over

FIRST_SEED = 100
"""Cohort seeds below are those of development and of studies that are reported."""
FEWEST_PATIENTS_A_SITE = 10
"""With fewer, a hospital may be left without a training visit, and the study has another number of hospitals."""


class Block(Configuration):
    """Every number of patients with every number of hospitals."""

    patients: tuple[PositiveInt, ...] = Field(min_length=1, description="of all hospitals together, test patients too")
    sites: tuple[PositiveInt, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_patients_for_its_sites(self) -> Block:
        fewest = FEWEST_PATIENTS_A_SITE * max(self.sites)
        if min(self.patients) < fewest:
            raise ValueError(
                f"{max(self.sites)} sites need {fewest} patients, {FEWEST_PATIENTS_A_SITE} each, and there is a point "
                f"of {min(self.patients)}; put it into a block with fewer sites"
            )
        return self


@dataclass(frozen=True, order=True)
class Point:
    """A place on the curves."""

    patients: int
    sites: int


class PowerConfig(Configuration):
    """A whole power study."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str
    study: Path = Field(description="the study's file, from the folder of this one")
    study_profile: str = Field("quick", description="which of the study's profiles")
    settings: dict[str, Any] = Field(default_factory=dict, description="laid over the study, such as other shares")
    regimes: tuple[str, ...] = Field((), description="of the study; empty: all")
    claims: tuple[Claim, ...] = Field(min_length=1, description="what is tested; all of it is corrected together")
    grid: tuple[Block, ...] = Field(min_length=1, description="the points of the curves, each once")
    cohorts: int = Field(5, ge=1, description="planted at each point, each with a seed of its own")
    first_seed: int = Field(500, ge=FIRST_SEED, description="of the cohorts; the others follow")
    profiles: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="what replaces these settings; quick: an hour on two cores"
    )

    @property
    def points(self) -> tuple[Point, ...]:
        """The points, in order, each once."""
        found = {Point(p, s) for block in self.grid for p in block.patients for s in block.sites}
        return tuple(sorted(found))

    @property
    def seeds(self) -> range:
        """The seeds of the cohorts of every point."""
        return range(self.first_seed, self.first_seed + self.cohorts)


def power_at_profile(power: PowerConfig, name: str) -> PowerConfig:
    """The power study as a profile runs it. Raises ConfigurationError."""
    if not power.profiles:
        return power
    if name not in power.profiles:
        raise ConfigurationError(f"power study {power.name} has no profile {name!r}; {nearest(name, power.profiles)}")
    values = {**power.model_dump(exclude={"profiles"}), **power.profiles[name]}
    return parse_config(values, PowerConfig, f"profile {name} of power study {power.name}")


def claimed_study(power: PowerConfig, study: StudyConfig) -> StudyConfig:
    """The study with the claims of the power study, and the methods and regimes that these need.

    Raises ConfigurationError for a study whose patients are not planted, for an unknown method, regime or combination,
    and for a study that would judge nothing.
    """
    sized = at_profile(study, power.study_profile)
    values = laid_over(sized.model_dump(exclude={"profiles"}), power.settings)
    source = f"power study {power.name}"
    if values["data"].get("planted") is None:
        raise ConfigurationError(f"{source}: nothing is planted in study {study.name}; name a study of `data.planted`")
    named = dict.fromkeys(name for claim in power.claims for name in (claim.method, claim.reference))
    values["methods"] = _chosen(values["methods"], tuple(named), source, "method")
    if power.regimes:
        values["regimes"] = _chosen(values["regimes"], power.regimes, source, "regime")
    values |= {
        "claims": [claim.model_dump() for claim in power.claims],
        "comparisons": [],
        "gap": None,
        "published": [],
    }
    claimed = parse_config(values, StudyConfig, source)
    if why := why_not_judged(FEWEST_SUBJECTS, len(claimed.seeds)):
        raise ConfigurationError(
            f"{source}: nothing would be judged, so that there is no power: {why}; give `settings: {{seeds: [...]}}` "
            f"of {FEWEST_SEEDS} or more"
        )
    return claimed


def study_at(claimed: StudyConfig, point: Point, seed: int) -> StudyConfig:
    """The study of one cohort. Raises ConfigurationError where a regime has another number of patients or sites."""
    own = {"patients": point.patients, "sites": point.sites, "seed": seed}
    name = f"{claimed.name}-{point.patients}-patients-{point.sites}-sites-{seed}"
    values = laid_over(claimed.model_dump(), {"name": name, "data": {"planted": own}})
    made = parse_config(values, StudyConfig, name)
    for regime in made.regimes:
        planted = data_source(made, regime).planted
        if planted is None or planted.model_dump(include=set(own)) != own:
            raise ConfigurationError(
                f"regime {regime} of study {claimed.name} has patients, sites or a cohort seed of its own, so that no "
                "curve can vary them; choose other `regimes`"
            )
    return made


def _chosen(known: Mapping[str, Any], wanted: tuple[str, ...], source: str, what: str) -> dict[str, Any]:
    """The entries that are wanted, in the order in which they are known."""
    for name in wanted:
        if name not in known:
            raise ConfigurationError(f"{source}: no {what} {name!r}; {nearest(name, known)}")
    return {name: entry for name, entry in known.items() if name in wanted}
