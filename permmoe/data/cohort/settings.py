"""What can be set about the synthetic cohort: size, sites, missing data, scanners, grid and layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from permmoe.config import Configuration, VolumeGrid
from permmoe.data.cohort.realism import PLAIN, REALISMS, Realism
from permmoe.errors import nearest

ImageModality = Literal["t1", "flair", "amyloid", "tau"]
MODALITIES: tuple[ImageModality, ...] = ("t1", "flair", "amyloid", "tau")
"""The four modalities of the cohort, in the order of `permmoe.modality.ADNI_MODALITIES`."""

Probability = Annotated[float, Field(ge=0, le=1)]

LARGEST_COHORT = 6000
"""Subjects for whom ADNI1 and ADNI-GO, at their largest shares, still have unused RIDs."""


class SiteConfig(Configuration):
    """A hospital: what it collects, and how many subjects it enrols against the others."""

    code: str = Field(pattern=r"^\d{3}$", description="first three digits of its subjects' PTIDs, such as 011")
    size: float = Field(1.0, gt=0, description="expected number of subjects, relative to the other sites")
    modalities: tuple[ImageModality, ...] = Field(MODALITIES, min_length=1, description="what it collects at all")


_SITES = (
    SiteConfig(code="011", size=1.6),
    SiteConfig(code="023", size=1.4),
    SiteConfig(code="037", size=1.2),
    SiteConfig(code="041", size=0.9, modalities=("t1", "amyloid", "tau")),
    SiteConfig(code="067", size=1.1, modalities=("t1", "flair", "amyloid")),
    SiteConfig(code="073", size=0.7, modalities=("t1", "flair", "amyloid")),
    SiteConfig(code="099", size=0.8, modalities=("t1", "flair")),
    SiteConfig(code="127", size=0.3, modalities=("t1",)),
)
"""Eight sites: three collect everything, four have tau, two have no PET, two no FLAIR."""

SITE_TABLES = {"adni": tuple(SiteConfig(code=site.code, size=site.size) for site in _SITES)}
"""Tables of sites by the name that a configuration may give: ADNI's collect what the phase's protocol says."""


class MissingConfig(Configuration):
    """Why a modality, or a follow-up visit, is not there although the site collects it."""

    t1: Probability = Field(0.02, description="lost completely at random: failed quality control, refusals")
    flair: Probability = Field(0.04, description="as t1")
    amyloid: Probability = Field(0.10, description="as t1")
    tau: Probability = Field(0.12, description="as t1")
    by_phase: bool = Field(True, description="as in ADNI: no FLAIR in ADNI1, tau from late ADNI2 on")
    by_severity: float = Field(1.0, ge=0, description="how much more often the frail and the old miss scans; 0: never")
    mean_follow_up_months: float = Field(150.0, gt=0, description="mean time to drop-out of a subject who is stable")
    by_decline: float = Field(1.0, ge=0, description="how much sooner those who decline drop out; 0: no sooner")


class PhaseShares(Configuration):
    """Relative number of subjects enrolled in each phase of ADNI; newer phases have FLAIR and tau."""

    adni1: float = Field(0.05, ge=0)
    adnigo: float = Field(0.05, ge=0)
    adni2: float = Field(0.20, ge=0)
    adni3: float = Field(0.40, ge=0)
    adni4: float = Field(0.30, ge=0)

    @model_validator(mode="after")
    def _leaves_unused_rids(self) -> PhaseShares:
        total = self.adni1 + self.adnigo + self.adni2 + self.adni3 + self.adni4
        if total <= 0:
            raise ValueError("every share is 0; give at least one phase a share")
        if self.adni1 > 0.30 * total or self.adnigo > 0.15 * total:
            raise ValueError("adni1 may have at most 30% and adnigo 15% of the subjects: their RID ranges are small")
        return self


class RawConfig(Configuration):
    """The cohort as scanners write it: whole heads in a pose of their own, in counts, before any preparation."""

    dicom_subjects: int = Field(2, ge=0, description="how many subjects' scans are there as DICOM series, too")


class CohortConfig(Configuration):
    """A synthetic, ADNI-shaped cohort; equal configurations give equal bytes."""

    subjects: int = Field(600, ge=1, le=LARGEST_COHORT)
    sites: tuple[SiteConfig, ...] | Annotated[int, Field(ge=1, le=130)] = Field(
        8,
        description="a declared table; or how many sites, of which every eight repeat the default table, where some "
        "lack a modality altogether; or `adni`: eight sites that each collect what the phase's protocol says",
    )  # fmt: skip
    phases: PhaseShares = PhaseShares()
    missing: MissingConfig = MissingConfig()
    site_shift: float = Field(
        1.0, ge=0, le=3, description="strength of scanner and tracer differences; 0: one scanner for all"
    )
    amyloid_tau_correlation: float = Field(
        0.5, ge=0, le=0.95, description="Pearson correlation of the amyloid and tau latents over subjects"
    )
    follow_up_months: int = Field(84, ge=0, le=84, description="last planned visit, months after the index visit")
    # Absent from `model_dump` at its default, so that digests of cohorts written before stay what they were.
    earlier_share: Probability = Field(
        0.0, exclude_if=lambda share: share == 0,
        description="share of those with MCI at their first visit who were seen before the index visit, too: half a "
        "year to three years, without scans",
    )  # fmt: skip
    grid: VolumeGrid = VolumeGrid()
    layout: Literal["bids", "caps"] = Field("bids", description="Clinica's adni-to-bids, or its CAPS")
    all_modalities: bool = Field(False, description="write all four for everybody, for upper bounds")
    # Absent from `model_dump` at its default, so that cohorts without these tables keep their digest.
    release_tables: bool = Field(
        False, exclude_if=lambda is_on: not is_on,
        description="also write the tables that ADNI's archive ships beside CDR: scores, people, regions of scans",
    )  # fmt: skip
    seed: int = Field(0, ge=0)
    # Absent from `model_dump` at its default, so that digests of cohorts written before stay what they were.
    raw: RawConfig | None = Field(
        None, exclude_if=lambda raw: raw is None,
        description="write whole heads as scanners would, before any preparation; none: brains in template space",
    )  # fmt: skip

    # Absent from `model_dump` at its default, so that digests of cohorts written before stay what they were.
    realism: Realism = Field(
        PLAIN, exclude_if=lambda realism: realism == PLAIN,
        description="how like ADNI: `adni-like`, or single knobs; `plain`: none of them",
    )  # fmt: skip

    @field_validator("realism", mode="before")
    @classmethod
    def _realism_by_name(cls, value: Any) -> Any:
        return _named(value, REALISMS, "realism")

    @field_validator("sites", mode="before")
    @classmethod
    def _sites_by_name(cls, value: Any) -> Any:
        return _named(value, SITE_TABLES, "table of sites")

    @model_validator(mode="after")
    def _has_one_account_of_phases(self) -> CohortConfig:
        if self.realism.availability == "adni" and self.phases != PhaseShares():
            raise ValueError("phases: realism.availability = adni says how large each phase is; give one of both")
        return self

    @model_validator(mode="after")
    def _is_raw_in_bids_only(self) -> CohortConfig:
        if self.raw is not None and self.layout != "bids":
            raise ValueError("raw: CAPS holds images that Clinica has prepared; raw heads need layout = bids")
        return self

    @model_validator(mode="after")
    def _site_codes_are_unique(self) -> CohortConfig:
        codes = [site.code for site in self.site_table]
        if not codes:
            raise ValueError("sites is empty; declare at least one site, or give a number")
        if repeated := sorted({code for code in codes if codes.count(code) > 1}):
            raise ValueError(f"sites are declared twice: {', '.join(repeated)}")
        return self

    @property
    def site_table(self) -> tuple[SiteConfig, ...]:
        """The sites as declared, or the default table repeated under further codes up to the number asked for."""
        return _repeated_sites(self.sites) if isinstance(self.sites, int) else self.sites


def _named(value: Any, known: Mapping[str, Any], what: str) -> Any:
    """What a name stands for; anything but a name passes. Raises ValueError for an unknown name."""
    if not isinstance(value, str):
        return value
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; {nearest(value, known)}")
    return known[value]


@lru_cache(maxsize=8)
def _repeated_sites(count: int) -> tuple[SiteConfig, ...]:
    used = [site.code for site in _SITES]
    codes = [*used, *(code for code in (f"{number:03d}" for number in range(2, 140)) if code not in used)]
    return tuple(_SITES[i % len(_SITES)].model_copy(update={"code": codes[i]}) for i in range(count))
