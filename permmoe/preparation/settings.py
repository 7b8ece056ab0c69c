"""What can be set about a preparation; what of it a model has to know is in `prepared_as`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from permmoe.config import Configuration, VolumeGrid
from permmoe.data.template import TEMPLATE
from permmoe.data.tracers import canonical_tracer
from permmoe.preparation.scan import PET
from permmoe.prepared import Prepared

METHOD = "permmoe 1"
"""Raised whenever a scan would be prepared in a way that a model could tell."""

FIELD_MM = (182.0, 218.0, 182.0)
"""The extent of the template's field, as FSL has it."""

REGIONS_BY_MODALITY = {"amyloid": "whole_cerebellum", "tau": "inferior_cerebellar_grey"}
"""Regions of permmoe.preparation.images.regions, which says why these."""


class PreparationSettings(Configuration):
    """How scans are prepared: `permmoe data prepare --settings`, `data.prepare.settings` in site.yaml."""

    spacing_mm: float = Field(2.0, ge=1, le=4, description="edge of a voxel of the prepared images, mm")
    regions: Mapping[str, str] = Field(
        {}, description="reference regions of PET by tracer (AV45) or modality (amyloid, tau), where not the usual ones"
    )

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
        x, y, z = (round(extent / self.spacing_mm) for extent in FIELD_MM)
        return VolumeGrid(shape=(x, y, z), spacing_mm=self.spacing_mm)

    def region(self, modality: str, tracer: str) -> str:
        """The reference region of a PET scan; empty for MRI."""
        if modality not in PET:
            return ""
        return self.regions.get(tracer) or self.regions.get(modality) or REGIONS_BY_MODALITY[modality]

    def prepared_as(self, modality: str, tracer: str = "") -> Prepared:
        """What a model has to know of images that are prepared so."""
        return Prepared(skull="removed", space=TEMPLATE, region=self.region(modality, tracer), by=METHOD)
