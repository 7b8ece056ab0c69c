"""How an image was prepared: an image's sidecar, a model's card and a study's plan say it in the same words."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from permmoe.errors import refuse_unknown_keys
from permmoe.plain_text import refuse_unprintable


class Prepared(BaseModel):
    """A model reads images that were prepared as its training's, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skull: Literal["removed", "kept"] = Field("removed", description="whether only the brain is left")
    space: str = Field(description="template that it is registered to, by its name in BIDS, as MNI152NLin2009aSym")
    region: str = Field("", description="PET: the reference region whose uptake is 1; empty for MRI")
    by: str = Field("", description="program and version of the method; empty: not known")
    # Absent from `model_dump` where it is not told, so that digests and approvals of older studies stay valid.
    spacing_mm: float | None = Field(
        None, gt=0, exclude_if=lambda spacing: spacing is None,
        description="edge of a voxel, mm; none: not told, and a model that does not tell it reads images of any",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        refuse_unprintable(values)
        refuse_unknown_keys(values, cls.model_fields)
        return values

    def __str__(self) -> str:
        """In words, for people who compare two."""
        region = f", uptake ratios to {self.region}" if self.region else ""
        spacing = f", voxels of {self.spacing_mm:g} mm" if self.spacing_mm is not None else ""
        return f"skull {self.skull}, space {self.space}{region}{spacing}, by {self.by or 'an unknown program'}"

    def admits(self, image: Prepared) -> bool:
        """Whether a model that declares this reads an image that was prepared so."""
        return self == (image if self.spacing_mm is not None else image.model_copy(update={"spacing_mm": None}))
