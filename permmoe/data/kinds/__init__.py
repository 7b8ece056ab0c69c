"""The kinds of modality, and what the data side needs to know of each.

A new kind is a file beside these, an entry in `KINDS`, and its name in permmoe.modality.MODALITY_KINDS. Nothing
else on the data side asks which kind a modality is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from permmoe.data.kinds.history import HistoryKind
from permmoe.data.kinds.kind import Kind
from permmoe.data.kinds.tabular import TabularKind
from permmoe.data.kinds.volume import VolumeKind
from permmoe.modality import Modality

KINDS: Mapping[str, Kind] = {"volume": VolumeKind(), "tabular": TabularKind(), "history": HistoryKind()}
"""In the order in which their columns stand in a manifest."""


def kind_of(modality: Modality) -> Kind:
    """What the data side knows of a modality's kind."""
    return KINDS[modality.kind]


def columns_of(modality: Modality) -> tuple[str, ...]:
    """The columns of the manifest that hold a modality."""
    return kind_of(modality).columns(modality)


def by_kind(modalities: Iterable[Modality]) -> list[tuple[Kind, list[Modality]]]:
    """The modalities of each kind that occurs, in the order of `KINDS`."""
    found = list(modalities)
    own = [(kind, [m for m in found if kind_of(m) is kind]) for kind in KINDS.values()]
    return [(kind, of_kind) for kind, of_kind in own if of_kind]
