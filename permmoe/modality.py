"""Modalities, and the combinations of them that a visit can have.

With modalities in a fixed order, a combination is both a tuple of names in that order and a bit mask (bit j set =
modality j observed). The mask indexes the missing bank and the designated experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations as choose
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from permmoe.errors import nearest, refuse_unknown_keys
from permmoe.plain_text import refuse_unprintable
from permmoe.prepared import Prepared
from permmoe.tracers import TRACERS, canonical_tracer

Combination = tuple[str, ...]
"""Names of the observed modalities, in the study's order; never empty."""


@dataclass(frozen=True)
class ModalityKind:
    """What a configuration has to know about a kind of modality.

    How such a modality is read is declared in permmoe.data.kinds, how it enters the model in
    permmoe.layers.input_kinds, both under the same name.
    """

    description: str
    has_columns: bool
    """Whether its values are numbers in columns of the manifest; else the manifest names a file."""


MODALITY_KINDS: dict[str, ModalityKind] = {
    "volume": ModalityKind("a 3-D image", has_columns=False),
    "tabular": ModalityKind("numbers from the manifest", has_columns=True),
    "history": ModalityKind("numbers of earlier visits, from the manifest", has_columns=True),
}


class Modality(BaseModel):
    """One kind of measurement of a visit: declared here, never hard-wired elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="column of the manifest that holds it")
    kind: str = Field(
        "volume", description="; ".join(f"{name}: {kind.description}" for name, kind in MODALITY_KINDS.items())
    )
    normalisation: Literal["zscore", "suvr"] = Field(
        "zscore", description="volumes: z-score over non-zero voxels (MRI), or standardised uptake ratios kept (PET)"
    )
    # Absent from `model_dump` at its default, so that digests and approvals of older studies stay valid.
    prepared: Prepared | None = Field(
        None, exclude_if=lambda prepared: prepared is None,
        description="volumes: how images have to be prepared to be read; none: as they are",
    )  # fmt: skip
    tracers: tuple[str, ...] = Field(
        (), exclude_if=lambda tracers: not tracers,
        description="PET: tracers that are read, as [AV45, FBB]; others are left out; none listed: all",
    )  # fmt: skip
    columns: tuple[str, ...] = Field((), description="tabular: numeric columns of the manifest, all present or absent")
    means: tuple[float, ...] = Field((), description="tabular: what the model subtracts from each column; empty: 0")
    deviations: tuple[float, ...] = Field((), description="tabular: what it then divides by; empty: 1")
    # Absent from `model_dump` where there are none, so that digests and approvals of older studies stay valid.
    missing_codes: tuple[float, ...] = Field(
        (), exclude_if=lambda codes: not codes,
        description="tabular: numbers of a manifest that say that nothing was measured, such as -4; none: every number "
        "is a measurement. What registries write in its place is known to their loaders",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, values: Any) -> Any:
        refuse_unprintable(values)
        refuse_unknown_keys(values, cls.model_fields)
        return values

    @field_validator("kind")
    @classmethod
    def _is_declared(cls, name: str) -> str:
        if name not in MODALITY_KINDS:
            raise ValueError(f"unknown kind of modality {name!r}; {nearest(name, MODALITY_KINDS)}")
        return name

    @field_validator("tracers")
    @classmethod
    def _by_canonical_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """`florbetapir` and `18FAV45` are AV45."""
        found = [canonical_tracer(name) for name in names]
        if None in found:
            unknown = names[found.index(None)]
            raise ValueError(f"no tracer {unknown!r} is known; {nearest(unknown, [t.name for t in TRACERS])}")
        return tuple(dict.fromkeys(filter(None, found)))

    @property
    def has_columns(self) -> bool:
        """Whether its values are numbers in columns of the manifest."""
        return MODALITY_KINDS[self.kind].has_columns

    @model_validator(mode="after")
    def _scales_every_column(self) -> Modality:
        for name, values in (("means", self.means), ("deviations", self.deviations)):
            if values and len(values) != len(self.columns):
                raise ValueError(f"modality {self.name} has {len(self.columns)} columns but {len(values)} {name}")
        if min(self.deviations, default=1.0) <= 0:
            raise ValueError(f"modality {self.name} has a deviation that is not positive")
        if self.missing_codes and not self.has_columns:
            raise ValueError(f"modality {self.name} has missing_codes and no columns that they could stand in")
        return self


ADNI_MODALITIES = (
    Modality(name="t1"),
    Modality(name="flair"),
    Modality(name="amyloid", normalisation="suvr"),
    Modality(name="tau", normalisation="suvr"),
)


def all_combinations(names: Sequence[str]) -> tuple[Combination, ...]:
    """The 2^|M| − 1 non-empty combinations, fewest modalities first, each in the order of `names`."""
    return tuple(c for size in range(1, len(names) + 1) for c in choose(names, size))


def combination_name(combination: Combination) -> str:
    """How a combination is written in tables and figures: `t1+amyloid`."""
    return "+".join(combination)


def combination_mask(combination: Iterable[str], names: Sequence[str]) -> int:
    """The combination's bit mask over `names`. Raises ValueError for a name that is not among them."""
    return sum(1 << names.index(name) for name in combination)


def combination_of(mask: int, names: Sequence[str]) -> Combination:
    """The inverse of `combination_mask`."""
    return tuple(name for j, name in enumerate(names) if mask >> j & 1)


def bank_pairs(n_modalities: int) -> tuple[tuple[int, int], ...]:
    """The (observed mask P, missing modality m) pairs that need an embedding: m ∉ P, P not empty; 28 for four."""
    return tuple((mask, m) for mask in range(1, 1 << n_modalities) for m in range(n_modalities) if not mask >> m & 1)


def designated_expert(mask: int, n_modalities: int, n_experts: int) -> int:
    """The expert that the specialisation loss ties to an observed set; the full set's is expert 0.

    Incomplete sets, most modalities first and then by mask, take experts 1, 2, … and wrap around among experts 1 to
    E − 1 when there are more sets than experts. Defined for any number of modalities and experts (the public Flex-MoE
    code crashes for five modalities with sixteen experts).
    """
    full = (1 << n_modalities) - 1
    if not 0 < mask <= full:
        raise ValueError(f"observed mask {mask} is not a non-empty subset of {n_modalities} modalities")
    if mask == full or n_experts == 1:
        return 0
    incomplete = sorted(range(1, full), key=lambda other: (-other.bit_count(), other))
    return 1 + incomplete.index(mask) % (n_experts - 1)
