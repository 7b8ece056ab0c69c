"""The section of example images, which shows synthetic subjects only."""

from __future__ import annotations

from permmoe_simulation.report.content import Plot, Section, Text
from permmoe_simulation.report.pictures import slice_gallery
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View


def images_section(view: View) -> Section | None:
    """What the model sees. Nothing for public tables, which have no images."""
    title = "Example images"
    if view.summary.source == "public":
        return None
    if not view.summary.synthetic:
        reason = "Not shown: a report may be passed on, and the voxels of a patient must not travel with it."
        return Section("images", title, [Text(reason)])
    slices = view.study.slices
    if not slices:
        return Section("images", title, [Text("Not available: the study left no example slices (slices.npz).")])
    views = ("axial", "coronal")
    shown = [m for m in view.modalities if any(f"{m}_{v}" in slices for v in views)]
    if not shown:
        return Section("images", title, [Text("Not available: slices.npz holds no modality of this study.")])
    plot = Plot(
        slice_gallery(shown, slices, views),
        f"Axial and coronal slices of one synthetic subject: {', '.join(shown)}.",
        "One subject of the synthetic cohort, as the model receives it: axial above, coronal below. Each picture has "
        "its own grey scale.",
    )
    return Section("images", title, [plot])


IMAGES = ReportSection(images_section)
