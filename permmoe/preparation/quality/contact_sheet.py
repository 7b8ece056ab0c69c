"""One picture of a session: slices of each prepared image, with the outline of the template's brain over them.

Where the outline follows the edge of the brain, the image lies where it should. Slices are seen as in a textbook of
radiology: from the front and from below, so that the patient's left is on the right.

The picture shows a patient's brain: its file is readable by its owner only, and stays at the site.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine
from permmoe.preparation.quality.limits import MODALITY_NAMES
from permmoe.preparation.quality.reference_brain import reference_brain
from permmoe.preparation.quality.rules import Judgement, Verdict
from permmoe.preparation.scan import PET
from permmoe.runtime.files import write_file

POSITIONS_MM = ((-32, -8, 8, 32), (-80, -56, -32, -8, 20, 46), (-44, -26, -8, 10, 28, 52))
"""Of the sagittal, coronal and axial slices, in template space, along their axis."""
FIELD_MM = ((-82, 82), (-118, 84), (-78, 92))
"""What is shown, along each axis: the template's brain and a centimetre around it."""
PIXELS_A_MM = 1.0
GREYS = 24
"""Shades of an image: as many as are told apart on a screen, and few enough for a small file."""

DIGEST = "permmoe-digest"
UPTAKE = (0.0, 2.0)
"""Uptake ratios that are shown black and white."""

INK, PAPER, MUTED = (28, 33, 39), (255, 255, 255), (91, 101, 112)
TEMPLATE, MASK, VENTRICLES = (255, 176, 0), (86, 180, 233), (255, 110, 180)
SHADES = {Verdict.GOOD: (0, 105, 75), Verdict.LOOK: (138, 84, 0), Verdict.FAILED: (165, 30, 30)}
VENTRICLES_BELOW, VENTRICLES_INSIDE_MM = 0.55, 18.0
"""Ventricles are darker than this share of a T1's median, so far inside the template's brain."""
MARGIN, GAP, LINE, HEAD = 16, 3, 18, 92

Volume = Float32[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Shown:
    """One prepared image on a sheet."""

    modality: str
    prepared: Volume
    mask: Mask
    judgement: Judgement
    own_t1: Volume | None = None
    """The session's prepared T1, for FLAIR and PET: its ventricles are outlined."""
    note: str = ""
    """What else the caption says, such as the tracer."""


def write_sheet(
    path: Path, title: str, images: Sequence[Shown], grid: VolumeGrid, *, is_synthetic: bool, digest: str = ""
) -> None:
    """Write the sheet of a session as PNG, readable by its owner only; `title` names subject and session.

    `digest` is kept in the file, for `digest_of_sheet` to tell whether the sheet is still the one that is wanted.
    """
    content, notes = io.BytesIO(), PngInfo()
    notes.add_text(DIGEST, digest)
    picture = contact_sheet(title, images, grid, is_synthetic=is_synthetic)
    picture.save(content, format="PNG", optimize=True, pnginfo=notes)
    write_file(path, content.getvalue(), is_durable=False)


def digest_of_sheet(path: Path) -> str | None:
    """The digest with which a sheet was written; None where there is no sheet, or none that can be read."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(DIGEST, ""))
    except (OSError, SyntaxError):
        return None


def contact_sheet(title: str, images: Sequence[Shown], grid: VolumeGrid, *, is_synthetic: bool) -> Image.Image:
    """The sheet as a picture of few colours: a caption and three rows of slices for each image, one below the other."""
    blocks = [_block(image, grid) for image in images]
    width = max((block.width for block in blocks), default=600) + 2 * MARGIN
    head = _head(title, width, is_synthetic)
    height = head.height + sum(block.height + MARGIN for block in blocks) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    sheet.paste(head, (0, 0))
    top = head.height
    for block in blocks:
        sheet.paste(block, (MARGIN, top))
        top += block.height + MARGIN
    # Without dithering, which would make a grain of its own and a large file.
    return sheet.quantize(palette=_palette(), dither=Image.Dither.NONE)


@cache
def _palette() -> Image.Image:
    """The colours of a sheet: greys of slices, and each colour of lines and letters with shades of their edges.

    Colours that are chosen by how often they occur would lose an outline of few pixels.
    """
    greys = [(g, g, g) for g in (round(k * 235 / (GREYS - 1)) for k in range(GREYS))]
    inks = (TEMPLATE, MASK, VENTRICLES, INK, MUTED, *SHADES.values())
    steps = np.linspace(0, 1, 6)
    mixed = [tuple(round(i + (p - i) * s) for i, p in zip(ink, PAPER, strict=True)) for ink in inks for s in steps]
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for colour in (*greys, *mixed) for level in colour])
    return palette


def _head(title: str, width: int, is_synthetic: bool) -> Image.Image:
    """The sheet's first lines."""
    head = Image.new("RGB", (width, HEAD), PAPER)
    draw = ImageDraw.Draw(head)
    draw.text((MARGIN, 12), title, INK, _font(20, is_bold=True))
    if is_synthetic:
        draw.text((width - MARGIN, 14), "SYNTHETIC DATA", SHADES[Verdict.LOOK], _font(18, is_bold=True), anchor="ra")
    left = MARGIN
    for colour, text in ((TEMPLATE, "template's brain"), (MASK, "this brain's mask"), (VENTRICLES, "T1's ventricles")):
        draw.line((left, 54, left + 22, 54), fill=colour, width=3)
        draw.text((left + 30, 46), text, MUTED, _font(13))
        left += 56 + round(_font(13).getlength(text))
    rest = "The patient's left is on the right (L). Stays at the site: it shows a brain."
    draw.text((MARGIN, 46 + LINE), rest, MUTED, _font(13))
    return head


def _block(shown: Shown, grid: VolumeGrid) -> Image.Image:
    """An image's caption above its rows of slices."""
    rows = [_row(shown, axis, grid) for axis in range(3)]
    width = max(row.width for row in rows)
    lines = [line for reason in shown.judgement.reasons[:4] for line in _folded(reason, width)]
    top = 30 + LINE * len(lines) + 4
    block = Image.new("RGB", (width, top + sum(row.height + GAP for row in rows)), PAPER)
    draw, verdict = ImageDraw.Draw(block), shown.judgement.verdict
    notes = [shown.note, f"black 0, white {UPTAKE[1]:g}" if shown.modality in PET else ""]
    note = ", ".join(filter(None, notes))
    name = MODALITY_NAMES.get(shown.modality, shown.modality) + (f" ({note})" if note else "")
    draw.text((0, 4), name, INK, _font(16, is_bold=True))
    x = round(draw.textlength(name, _font(16, is_bold=True))) + 14
    label = {Verdict.GOOD: "GOOD", Verdict.LOOK: "LOOK AT THIS", Verdict.FAILED: "FAILED: left out"}[verdict]
    box = draw.textbbox((x + 7, 6), label, _font(13, is_bold=True))
    draw.rounded_rectangle((x, box[1] - 4, box[2] + 7, box[3] + 4), 3, fill=SHADES[verdict])
    draw.text((x + 7, 6), label, PAPER, _font(13, is_bold=True))
    for number, line in enumerate(lines):
        draw.text((0, 30 + LINE * number), line, SHADES[verdict], _font(13))
    for row in rows:
        block.paste(row, (0, top))
        top += row.height + GAP
    return block


def _row(shown: Shown, axis: int, grid: VolumeGrid) -> Image.Image:
    """Slices across one axis, side by side."""
    low, high = _brightness(shown)
    prepared = np.nan_to_num(shown.prepared)
    inside_mm = reference_brain(grid).inside_mm
    ventricles = _ventricles(shown.own_t1, inside_mm) if shown.own_t1 is not None else None
    slices = []
    for millimetres in POSITIONS_MM[axis]:
        image = _slice(prepared, axis, millimetres, grid, order=0)
        mask = _slice(shown.mask.astype(np.float32), axis, millimetres, grid, order=1) > 0.5
        outline = _slice(inside_mm, axis, millimetres, grid, order=1) > 0
        grey = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
        shade = (np.round(grey * (GREYS - 1)) * (235 / (GREYS - 1))).astype(np.uint8)
        picture = np.repeat(shade[..., None], 3, axis=2)
        if ventricles is not None:
            picture[_edge(_slice(ventricles, axis, millimetres, grid, order=1) > 0.5)] = VENTRICLES
        picture[_edge(mask)] = MASK
        picture[_edge(outline)] = TEMPLATE
        slices.append(_labelled(picture, axis, millimetres))
    width = sum(labelled.width for labelled in slices) + GAP * (len(slices) - 1)
    row = Image.new("RGB", (width, slices[0].height), PAPER)
    left = 0
    for labelled in slices:
        row.paste(labelled, (left, 0))
        left += labelled.width + GAP
    return row


def _labelled(picture: Picture, axis: int, millimetres: int) -> Image.Image:
    """A slice with its position, and with its sides where it shows both."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.text((3, image.height - 3), f"{'xyz'[axis]} {millimetres:+d}", (190, 190, 190), _font(11), anchor="lb")
    if axis > 0:
        draw.text((4, 2), "R", (190, 190, 190), _font(11))
        draw.text((image.width - 4, 2), "L", (190, 190, 190), _font(11), anchor="ra")
    return image


def _brightness(shown: Shown) -> tuple[float, float]:
    """Values shown black and white: fixed for uptake ratios, so that sheets compare; 0 and the brightest for MRI."""
    if shown.modality in PET:
        return UPTAKE
    inside = shown.prepared[shown.mask & np.isfinite(shown.prepared)]
    return (0.0, float(np.quantile(inside, 0.995))) if len(inside) else (0.0, 1.0)


def _ventricles(t1: Volume, inside_mm: Volume) -> Volume:
    """1 in the dark places well inside a T1's brain, 0 elsewhere."""
    brain = t1[t1 > 0]
    dark = VENTRICLES_BELOW * float(np.median(brain)) if len(brain) else 0.0
    return ((t1 < dark) & (inside_mm > VENTRICLES_INSIDE_MM)).astype(np.float32)


def _slice(
    volume: Volume, axis: int, millimetres: int, grid: VolumeGrid, *, order: int
) -> Float32[np.ndarray, "height width"]:
    """A slice in pixels: the patient's left, or back, on the right; the top, or front, above."""
    origin = grid_affine(grid)[:3, 3]
    plane = volume.take(round((millimetres - origin[axis]) / grid.spacing_mm), axis, mode="clip")
    across, up = (
        (np.arange(FIELD_MM[other][1], FIELD_MM[other][0], -1 / PIXELS_A_MM) - origin[other]) / grid.spacing_mm
        for other in range(3)
        if other != axis
    )
    places = np.meshgrid(across, up)
    if order == 0:
        nearest = [np.clip(np.rint(p).astype(int), 0, n - 1) for p, n in zip(places, plane.shape, strict=True)]
        return np.asarray(plane[nearest[0], nearest[1]], np.float32)
    found: Float32[np.ndarray, "height width"] = ndimage.map_coordinates(plane, places, order=1, mode="nearest")
    return found


def _edge(inside: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The pixels inside that have a neighbour outside."""
    edge: Bool[np.ndarray, "height width"] = inside & ~ndimage.binary_erosion(inside)
    return edge


def _folded(text: str, width: int) -> list[str]:
    """The text in lines that fit."""
    font, lines = _font(13), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@cache
def _font(size: int, *, is_bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings."""
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
