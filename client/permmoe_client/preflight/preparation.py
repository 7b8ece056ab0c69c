"""Whether the site's images are prepared as the study needs them, or can be (a few are tried), and of which tracers."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from permmoe.data.preparation import prepared_as, with_matching_images
from permmoe.data.reasons import Remedy
from permmoe.data.tracer_rule import mixed_tracers, with_read_tracers
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import PermmoeError
from permmoe.preparation.commands import require_tools
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.left_out import SHOW, item_lines, reasons_text
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning

TRIED = 1
"""Patients whose images are prepared for a try: a minute each."""


def image_preparation(facts: Facts) -> Outcome:
    """Images say that they were prepared as the study's model declares, or the site prepares them."""
    table = facts.cohort.table.need("data.readable")
    if facts.site.prepare is not None:
        return _tried(facts, table)
    table, _ = with_read_tracers(table, facts.model.modalities)
    _, refused = with_matching_images(table, facts.model.modalities, are_trusted=facts.site.images_are_prepared)
    if not len(refused):
        declares = any(modality.prepared for modality in facts.model.modalities)
        return ok("as the study declares" if declares else "the study declares nothing of it")
    outcome = failed if len(refused) == facts.image_count else warning
    detail = f"{len(refused)} of {facts.image_count} images will not be used: {reasons_text(refused)}"
    remedy = next(iter(refused)).reason.remedy
    return outcome(detail, f"{remedy}; or set 'prepare' in site.yaml; {SHOW}", item_lines(refused))


def _tried(facts: Facts, table: VisitTable) -> Outcome:
    """Prepare the images of a patient in a folder that goes away: a check leaves nothing behind."""
    raw = [visit for visit in table if _raw_images(visit)]
    n_raw = sum(map(_raw_images, raw))
    if not raw:
        return ok("every image is prepared already")
    if not facts.with_images:
        raise Skip("no image was opened", "check again without --no-images")
    try:
        require_tools()
    except PermmoeError as error:
        return failed(str(error), "install it, or take 'prepare' out of the settings")
    from permmoe.preparation.visits import prepare_visits

    sample = VisitTable(tuple(sorted(raw, key=_raw_images, reverse=True)[:TRIED]))
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_visits(sample, facts.model.modalities, Path(folder), progress=facts.preparation_progress)
    tried = sum(map(_raw_images, sample))
    detail = f"{n_raw} raw images; those of {len(sample)} patient ({tried}) were prepared for a try"
    if len(prepared.left_out):
        return warning(
            f"{detail}, {len(prepared.left_out)} could not be used: {reasons_text(prepared.left_out)}",
            f"{next(iter(prepared.left_out)).reason.remedy}; {SHOW}",
            item_lines(prepared.left_out),
        )
    if prepared.to_look_at:
        odd = "; ".join(sentence for sentences in prepared.to_look_at.values() for sentence in sentences)
        return warning(f"{detail}; to look at: {odd}", "look at the scans, and at qc.html after the first start")
    return ok(detail)


def _raw_images(visit: Visit) -> int:
    return sum(prepared_as(file) is None for file in visit.volumes.values())


def tracers(facts: Facts) -> Outcome:
    """Uptake ratios of several tracers are not mixed, but where the study lists the tracers."""
    modalities = [modality for modality in facts.model.modalities if modality.name in facts.wanted]
    table = facts.cohort.table.need("data.readable")
    _, unread = with_read_tracers(table, modalities)
    if len(unread):
        counts = ", ".join(f"{name} {n}" for name, n in Counter(item.modality for item in unread).items())
        return warning(f"{reasons_text(unread)}: {counts}", f"{Remedy.LIST_TRACER}; {SHOW}", item_lines(unread))
    if mixed := mixed_tracers(table, modalities):
        return warning("; ".join(mixed.values()), "ask the coordinator which tracers the study is of")
    return ok("no modality mixes tracers that the study does not list")


CHECKS = (
    Check("data.preparation", "Images are prepared as the study needs them", image_preparation),
    Check("data.tracers", "PET of different tracers is kept apart", tracers),
)
