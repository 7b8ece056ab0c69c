"""What can be set about a preparation; what of it a model has to know is in `prepared_as`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from permmoe.config import Configuration, VolumeGrid
from permmoe.data.template import TEMPLATE
from permmoe.preparation.scan import PET
from permmoe.prepared import Prepared
from permmoe.tracers import canonical_tracer

METHOD = "permmoe 2"
"""Raised whenever a scan would be prepared in a way that a model could tell."""

GRIDS = {
    1.0: VolumeGrid(shape=(182, 218, 182), spacing_mm=1.0),
    2.0: VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0),
    4.0: VolumeGrid(shape=(48, 56, 48), spacing_mm=4.0),
}
"""By spacing, the grids on which models of that spacing read: their images are interpolated once in all."""

REGIONS_BY_MODALITY = {"amyloid": "whole_cerebellum", "tau": "inferior_cerebellar_grey"}
"""Regions of permmoe.preparation.images.regions, which says why these."""


class PreparationSettings(Configuration):
    """How scans are prepared: `permmoe data prepare --settings`, or what a model's card or a study's plan declares."""

    spacing_mm: float = Field(2.0, description="edge of a voxel of the prepared images, mm: 1, 2 or 4")
    regions: Mapping[str, str] = Field(
        {}, description="reference regions of PET by tracer (AV45) or modality (amyloid, tau), where not the usual ones"
    )

    @field_validator("spacing_mm")
    @classmethod
    def _has_a_grid(cls, spacing: float) -> float:
        if spacing not in GRIDS:
            raise ValueError(f"no grid of {spacing:g} mm; use {', '.join(f'{known:g}' for known in GRIDS)}")
        return spacing

    @field_validator("regions")
    @classmethod
    def _names_tracers(cls, regions: Mapping[str, str]) -> dict[str, str]:
        named = {}
        for key, region in regions.items():
            tracer = key if key in PET else canonical_tracer(key)
            if tracer is None:
                raise ValueError(f"{key!r} is neither a tracer nor amyloid or tau; write AV45, or tau for its tracers")
            named[tracer] = region
        return named

    @property
    def grid(self) -> VolumeGrid:
        """The grid of the prepared images, on the template's field."""
        return GRIDS[self.spacing_mm]

    def region(self, modality: str, tracer: str) -> str:
        """The reference region of a PET scan; empty for MRI."""
        if modality not in PET:
            return ""
        return self.regions.get(tracer) or self.regions.get(modality) or REGIONS_BY_MODALITY[modality]

    def prepared_as(self, modality: str, tracer: str = "") -> Prepared:
        """What a model has to know of images that are prepared so."""
        region = self.region(modality, tracer)
        return Prepared(skull="removed", space=TEMPLATE, region=region, by=METHOD, spacing_mm=self.spacing_mm)
