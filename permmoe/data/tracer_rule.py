"""Uptake ratios of different tracers cannot be compared: which tracers a table mixes, and which a model reads.

The tracer of a PET image is what the table of visits says of it, or its name, or its JSON sidecar; that of numbers of a
table is what the table of visits says. A model whose modality lists `tracers` (permmoe.modality) reads those and no
other that is told; one that lists none reads all, and a table of several is named. What nothing tells is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from permmoe.data.image_names import image_name, stem
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.table_files import column_key
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import Modality
from permmoe.tracers import tracer_in


def tracer_of(visit: Visit, modality: str) -> str:
    """The canonical name of the tracer of a visit's modality; empty where nothing tells it, and for MRI."""
    if not visit.observed([modality]):
        return ""
    told = visit.tracers.get(modality, "")
    return told or (_tracer_of_image(visit.volumes[modality]) if modality in visit.volumes else "")


def is_read(modality: Modality, tracer: str) -> bool:
    """Whether a model reads PET of this tracer as this modality; an empty one is not told."""
    return not modality.tracers or not tracer or tracer in modality.tracers


def is_of_its_tracer(column: str) -> bool:
    """Whether numbers of a column can be compared for one PET tracer alone: uptake ratios and binding potentials.

    Centiloids are made to be compared, also where their column says what they are made from.
    """
    words = column_key(column).split("_")
    is_uptake = any(word.endswith(("SUVR", "FBP")) for word in words)
    return is_uptake and not words[0].startswith("CENTIL")


def with_read_tracers(visits: VisitTable, modalities: Sequence[Modality]) -> tuple[VisitTable, Quarantine]:
    """The visits without PET of tracers that a modality does not list. Visits that lose all they had stay."""
    items: list[Quarantined] = []
    kept = []
    for visit in visits:
        unread = [m.name for m in modalities if m.tracers and not is_read(m, tracer_of(visit, m.name))]
        files = {name: str(visit.volumes.get(name, "")) for name in unread}
        items += [Quarantined(visit.subject_id, n, file, Reason.UNREAD_TRACER) for n, file in files.items()]
        names = [name for name in (*visit.volumes, *visit.tables) if name not in unread]
        kept.append(visit.with_only(names) if unread else visit)
    return VisitTable(tuple(kept)), Quarantine(tuple(items))


def mixed_tracers(visits: Iterable[Visit], modalities: Sequence[Modality]) -> dict[str, str]:
    """For each modality that mixes tracers which its model does not list, what it mixes, in a sentence of counts."""
    table = tuple(visits)
    of_modalities = {m.name: _counts(table, m.name) for m in modalities if not m.tracers}
    return {name: mixed_in_words(name, counts) for name, counts in of_modalities.items() if len(counts) > 1}


def mixed_in_words(name: str, counts: Mapping[str, int]) -> str:
    """What a modality mixes, and what to do; it names no subject and no file."""
    found = ", ".join(f"{tracer} {n}" for tracer, n in counts.items())
    return (
        f"{name} has PET of several tracers, whose uptake ratios cannot be compared: {found}; list under 'tracers' of "
        "the modality in the model's settings those that it is to read"
    )


def with_declared_tracers(modalities: Sequence[Modality], visits: Iterable[Visit]) -> tuple[Modality, ...]:
    """The modalities, each with the tracers of its PET listed, if every image or row tells its own.

    A modality of which some tell nothing stays as it is, and so does one that lists tracers already.
    """
    table = tuple(visits)
    return tuple(m if m.tracers else _with_tracers(m, table) for m in modalities)


def _with_tracers(modality: Modality, visits: Sequence[Visit]) -> Modality:
    told = [tracer_of(visit, modality.name) for visit in visits if visit.observed([modality.name])]
    return modality.model_copy(update={"tracers": tuple(sorted(set(told)))}) if told and all(told) else modality


def _counts(visits: Sequence[Visit], name: str) -> dict[str, int]:
    """How many visits have each tracer, most frequent first."""
    told = Counter(filter(None, (tracer_of(visit, name) for visit in visits)))
    return dict(sorted(told.items(), key=lambda pair: (-pair[1], pair[0])))


def _tracer_of_image(image: Path) -> str:
    name = image_name(image.name)
    if name is not None and (name.tracer or name.suffix != "pet"):
        return name.tracer
    try:
        said = json.loads(image.with_name(stem(image) + ".json").read_text(encoding="utf-8-sig"))
        return tracer_in(str(said.get("TracerName") or said.get("Radiopharmaceutical") or "")) or ""
    except (OSError, ValueError, AttributeError):
        return ""
