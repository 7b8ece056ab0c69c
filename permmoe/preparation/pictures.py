"""The pictures of a folder of prepared images: a contact sheet for each session in `sheets/`, and `qc.html`.

A sheet is drawn again only where its images or what is said of them have changed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from permmoe.config import VolumeGrid
from permmoe.data.reasons import Reason
from permmoe.preparation.derivatives import Derivative
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.quality.contact_sheet import Shown, digest_of_sheet, write_sheet
from permmoe.preparation.quality.judged import Judged
from permmoe.preparation.quality.page import NOTHING, write_page
from permmoe.preparation.quality.rules import Verdict
from permmoe.runtime.workers import worker_pool

PAGE, SHEETS = "qc.html", "sheets"

Image = tuple[Derivative, Judged]


@dataclass(frozen=True)
class _Sheet:
    """One sheet to draw."""

    path: Path
    title: str
    images: tuple[Image, ...]
    is_synthetic: bool

    @property
    def digest(self) -> str:
        """Of all that the sheet shows."""
        shown = [(d.identity, str(judged.verdict), judged.reasons) for d, judged in self.images]
        return hashlib.sha256(repr((self.title, self.is_synthetic, shown)).encode()).hexdigest()


def write_pictures(
    out: Path,
    images: Sequence[Image],
    grid: VolumeGrid,
    *,
    is_synthetic: bool,
    without_picture: Mapping[Reason, int] = NOTHING,
    workers: int = 1,
    progress: Progress = unseen,
) -> tuple[Image, ...]:
    """Write what is missing of the sheets, and the page; the images come back with the names of their sheets.

    `without_picture`: how many scans were left out before there was an image of them, by reason.
    """
    sheets = _sheets(out, images, is_synthetic)
    missing = [sheet for sheet in sheets if digest_of_sheet(sheet.path) != sheet.digest]
    if workers <= 1 or len(missing) <= 1:
        for sheet in counted(missing, Step.DRAWN, progress):
            _draw(sheet, grid)
    else:
        with worker_pool(min(workers, len(missing)), threads=1) as pool:
            waiting: list[Future[None]] = [pool.submit(_draw, sheet, grid) for sheet in missing]
            for future in counted(waiting, Step.DRAWN, progress):
                future.result()
    paths = {id(derivative): sheet.path for sheet in sheets for derivative, _ in sheet.images}
    named = tuple((d, replace(judged, sheet=paths[id(d)])) for d, judged in images)
    write_page(
        out / PAGE,
        [judged for _, judged in named],
        title=out.resolve().name,
        is_synthetic=is_synthetic,
        without_picture=without_picture,
    )
    return named


def _sheets(out: Path, images: Sequence[Image], is_synthetic: bool) -> list[_Sheet]:
    """The sheets of all sessions; a session's folder, as BIDS has it, names it."""
    sessions: defaultdict[tuple[str, ...], list[Image]] = defaultdict(list)
    for derivative, judged in images:
        sessions[derivative.image.relative_to(out).parts[:2]].append((derivative, judged))
    return [
        _Sheet(
            path=out / SHEETS / f"{'_'.join(label)}.png",
            title=f"{own[0][1].subject}, session {own[0][1].session}",
            images=tuple(own),
            is_synthetic=is_synthetic,
        )
        for label, own in sessions.items()
    ]


def _draw(sheet: _Sheet, grid: VolumeGrid) -> None:
    loaded = [(derivative, judged, derivative.load(grid)) for derivative, judged in sheet.images]
    # Of a T1 that failed, ventricles would be drawn where it has none.
    t1s = (image.image.voxels for d, j, image in loaded if d.scan.modality == "t1" and j.verdict is not Verdict.FAILED)
    t1 = next(t1s, None)
    shown = [
        Shown(
            modality=derivative.scan.modality,
            prepared=image.image.voxels,
            mask=image.mask.voxels > 0.5,
            judgement=judged.judgement,
            own_t1=None if derivative.scan.modality == "t1" else t1,
            note=derivative.scan.tracer,
        )
        for derivative, judged, image in loaded
    ]
    write_sheet(sheet.path, sheet.title, shown, grid, is_synthetic=sheet.is_synthetic, digest=sheet.digest)
