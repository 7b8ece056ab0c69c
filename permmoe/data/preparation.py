"""What is known of how the images of a table were prepared, held against what a model was trained on.

An image's sidecar says it (`permmoe data prepare` writes one beside each image), or a name in Clinica's form. A model
whose modality declares a preparation (permmoe.modality) reads images of this preparation alone: others look alike and
mean something else. Images of which nothing is known are refused, too, unless somebody vouches for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from permmoe.data.image_names import image_name, stem
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.tracer_rule import with_declared_tracers, with_read_tracers
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError
from permmoe.modality import Modality
from permmoe.prepared import Prepared


def prepared_as(image: Path) -> Prepared | None:
    """How an image was prepared, as its sidecar or its name says; None where neither does."""
    try:
        said = json.loads(image.with_name(stem(image) + ".json").read_text())
        return Prepared.model_validate(said["Prepared"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return _by_clinica(image)


def with_matching_images(
    visits: VisitTable, modalities: Sequence[Modality], *, are_trusted: bool = False
) -> tuple[VisitTable, Quarantine]:
    """The visits with only those images that were prepared as the modalities declare, and PET of the tracers that they
    list; all, where they declare and list nothing.

    `are_trusted`: somebody vouches for images of whose preparation nothing is known. Visits that lose all images stay.
    """
    visits, unread = with_read_tracers(visits, modalities)
    items = [*unread]
    kept = []
    for visit in visits:
        refused = {m.name: reason for m in modalities if (reason := _reason_to_refuse(visit, m, are_trusted))}
        items += [Quarantined(visit.subject_id, n, str(visit.volumes[n]), reason) for n, reason in refused.items()]
        names = [*visit.volumes, *visit.tables]
        kept.append(visit.with_only([n for n in names if n not in refused]) if refused else visit)
    return VisitTable(tuple(kept)), Quarantine(tuple(items))


def with_declared_preparation(modalities: Sequence[Modality], visits: Iterable[Visit]) -> tuple[Modality, ...]:
    """The modalities, each with the preparation of its images declared, if all of them say the same, and with tracers.

    A modality whose images say nothing stays as it is. Raises DataError where the images of one differ.
    """
    table = tuple(visits)
    return with_declared_tracers([_declared(modality, table) for modality in modalities], table)


def _declared(modality: Modality, visits: Sequence[Visit]) -> Modality:
    if modality.prepared is not None:
        return modality
    said = {prepared_as(visit.volumes[modality.name]) for visit in visits if modality.name in visit.volumes}
    if len(said) > 1:
        ways = "\n".join(sorted(f"  {way or 'not told'}" for way in said))
        raise DataError(
            f"images of {modality.name} were prepared in {len(said)} ways:\n{ways}\n"
            "prepare all of them in one way ('permmoe data prepare'), or declare the one to use: 'prepared' of the "
            "modality in the model's settings",
            for_log=f"images of {modality.name} were prepared in {len(said)} ways",
        )
    return modality.model_copy(update={"prepared": said.pop()}) if said else modality


def _reason_to_refuse(visit: Visit, modality: Modality, are_trusted: bool) -> Reason | None:
    if modality.prepared is None or modality.name not in visit.volumes:
        return None
    how = prepared_as(visit.volumes[modality.name])
    if how is None:
        return None if are_trusted else Reason.UNKNOWN_PREPARATION
    return None if modality.prepared.admits(how) else Reason.OTHER_PREPARATION


def _by_clinica(image: Path) -> Prepared | None:
    """What the name of an image in Clinica's CAPS tells: its pipelines register and crop, and keep the skull."""
    name = image_name(image.name)
    if name is None or not image.parent.name.endswith("_linear") or not name.is_in_template_space:
        return None
    return Prepared(skull="kept", space=name.entities["space"], region=name.region, by="clinica")
