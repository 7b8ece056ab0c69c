"""The site's images: each is opened, and its shape, its place in space and its values are looked at."""

from __future__ import annotations

from collections import Counter

from permmoe.data.quarantine import Quarantine
from permmoe.data.reasons import Remedy
from permmoe_client.preflight.facts import Check, Facts
from permmoe_client.preflight.left_out import SHOW, item_lines, reasons_text, with_remedy
from permmoe_client.preflight.outcome import Outcome, Skip, failed, ok, warning


def image_files(facts: Facts) -> Outcome:
    """Every image was opened and read to its end."""
    return _images(facts, "cannot be read", Remedy.COPY)


def image_shapes(facts: Facts) -> Outcome:
    """An image has three dimensions that hold a head."""
    return _images(facts, "are no whole 3-D images", Remedy.CONVERT_SERIES)


def image_places(facts: Facts) -> Outcome:
    """Voxels have a size, and some lie on the grid."""
    return _images(facts, "have no usable place in space", Remedy.CONVERT_FROM_DICOM)


def image_values(facts: Facts) -> Outcome:
    """Values are finite and not all alike, and uptake ratios where the study needs those."""
    return _images(facts, "have no usable values", Remedy.LOOK)


def image_likeness(facts: Facts) -> Outcome:
    """Hardly an image is unlike the site's others of its modality."""
    _need_images(facts)
    found = facts.cohort.unlike
    if not len(found):
        return ok("no image stands out among the others of its modality")
    counts = Counter(item.modality for item in found)
    of_images = Counter(name for visit in facts.cohort.table.result or () for name in visit.volumes)
    detail = ", ".join(f"{n} of {of_images[name]} {name}" for name, n in counts.items())
    return warning(f"{reasons_text(found)}: {detail}", f"{Remedy.PREPARE}; {SHOW}", item_lines(found))


def _images(facts: Facts, what: str, remedy: Remedy) -> Outcome:
    """A broken image leaves its visit to the other modalities; where all are broken, something greater is wrong."""
    _need_images(facts)
    found = Quarantine(tuple(with_remedy(facts.cohort.broken, remedy)))
    if not len(found):
        return ok(f"{facts.image_count} images")
    outcome = failed if len(found) == facts.image_count else warning
    detail = f"{len(found)} of {facts.image_count} images {what}: {reasons_text(found)}"
    return outcome(detail, f"{remedy}; {SHOW}", item_lines(found))


def _need_images(facts: Facts) -> None:
    facts.cohort.table.need("data.readable")
    if not facts.with_images:
        raise Skip("no image was opened", "check again without --no-images")
    if not facts.image_count:
        raise Skip("no visit has an image")


CHECKS = (
    Check("data.image_files", "Every image can be read", image_files),
    Check("data.image_shapes", "Every image is a whole 3-D image", image_shapes),
    Check("data.image_places", "Every image has its place in space", image_places),
    Check("data.image_values", "Every image's values make sense", image_values),
    Check("data.image_likeness", "Images of a modality are alike", image_likeness),
)
