"""Slices of a scan, tinted where the prediction comes from, as pictures that stand inside the page.

Slices are seen as in a textbook of radiology, from the front and from below: the patient's left is on the right.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.data.background import without_background
from permmoe.data.cache import VolumeCache
from permmoe.data.image_file import checked_affine, checked_voxels, open_image
from permmoe.data.volumes import grid_affine, says_template_space
from permmoe.explanation.atlas import DISPLAY, OUTSIDE, REGIONS, labels
from permmoe.modality import Modality

SLICES = (("coronal", -64), ("coronal", -18), ("coronal", 26), ("axial", -22), ("axial", 8), ("axial", 36))
"""Plane and position, MNI mm."""
FIELD_MM = ((-80, 80), (-114, 80), (-72, 86))
"""What is shown along each axis: the template's brain and some millimetres around it."""
PIXELS_A_VOXEL = 2
GAP = 6
RAISES, LOWERS = (214, 94, 0), (0, 114, 178)
"""Of Okabe and Ito's colours: told apart by people who do not see red or green."""
FAINTEST, STRONGEST = 0.12, 0.62
"""How much of a picture's colour a tint is, from a region whose value is next to nothing to the largest."""
SHOWN_FROM = 0.2
"""Regions below this share of the largest value are not tinted."""
LEAST_VOXELS = 25
"""A region gets its number on a slice where it has so many voxels."""

Volume = Float32[np.ndarray, "x y z"]
Picture = UInt8[np.ndarray, "down across 3"]


@dataclass(frozen=True)
class Mark:
    """A region's number on the picture, in its pixels."""

    number: int
    x: float
    y: float


@dataclass(frozen=True)
class Strip:
    """Slices side by side."""

    source: str
    """The picture as an address that holds it."""
    width: int
    height: int
    marks: tuple[Mark, ...]
    captions: tuple[tuple[float, str], ...]
    """What each slice is, and the pixel of its middle."""


def strip(background: Volume, values: Mapping[str, float], largest: float, numbers: Sequence[str]) -> Strip:
    """Slices of a volume on the grid of pictures, 0 black and 1 white, tinted by the regions' values.

    `largest`: the value that is tinted strongest, of all pictures that are to be compared. `numbers`: regions in the
    order of their numbers, which stand where a region of a value that is shown can be seen.
    """
    tinted = [name for name, value in values.items() if name != OUTSIDE and abs(value) >= SHOWN_FROM * largest > 0]
    panels, marks, captions, x = [], [], [], 0
    height = max(_cut(labels(DISPLAY), plane, mm).shape[0] for plane, mm in SLICES) * PIXELS_A_VOXEL
    for plane, mm in SLICES:
        names = _cut(labels(DISPLAY), plane, mm)
        panel = _tinted(_cut(background, plane, mm), names, {name: values[name] for name in tinted}, largest)
        top = (height - panel.shape[0]) // 2
        panels.append(np.pad(panel, ((top, height - panel.shape[0] - top), (0, GAP), (0, 0))))
        for number, name in enumerate(numbers, start=1):
            if name in tinted and (place := _middle(names == REGIONS.index(name))):
                marks.append(
                    Mark(number, x + PIXELS_A_VOXEL * (place[1] + 0.5), top + PIXELS_A_VOXEL * (place[0] + 0.5))
                )
        captions.append((x + panel.shape[1] / 2, f"{plane} {mm:+d} mm"))
        x += panel.shape[1] + GAP
    picture = np.concatenate(panels, axis=1)[:, :-GAP]
    return Strip(_png(picture), picture.shape[1], height, tuple(marks), tuple(captions))


def on_display_grid(file: Path, modality: Modality, grid: VolumeGrid, cache: VolumeCache) -> Volume:
    """A scan that a prediction read, on the grid of pictures.

    As sharp as its file, where that lies in template space and is in three dimensions; else as the model saw it, on
    `grid`, from where the cache has it.
    """
    image = open_image(file)
    if says_template_space(file, image) and len(image.shape) == 3:
        voxels = checked_voxels(image, cache.frames)
        return _resampled(without_background(voxels), checked_affine(image))
    return _resampled(np.asarray(cache.get(file, modality, grid), np.float32), grid_affine(grid))


def _resampled(voxels: Float32[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]) -> Volume:
    """Linear interpolation; 0 beyond the field."""
    to_voxels = np.linalg.inv(affine) @ grid_affine(DISPLAY)
    sampled: Volume = ndimage.affine_transform(
        voxels, to_voxels[:3, :3], to_voxels[:3, 3], output_shape=DISPLAY.shape, order=1
    )
    return sampled


def grey(volume: Volume, *, is_uptake: bool) -> Volume:
    """A scan from black to white: uptake ratios from 0 on, others from what is dark in the head to what is bright."""
    head = volume[volume != 0]
    low, high = np.quantile(head, (0.01, 0.995)) if len(head) else (0.0, 1.0)
    if is_uptake:
        low = 0.0
    shown: Volume = np.where(volume != 0, np.clip((volume - low) / max(float(high - low), 1e-6), 0, 1), 0)
    return shown.astype(np.float32)


def _cut(volume: np.ndarray, plane: str, mm: int) -> np.ndarray:
    """One slice, the patient's right on the left and the front or the crown above, within the field."""
    first, step = grid_affine(DISPLAY)[:3, 3], DISPLAY.spacing_mm
    ends = [
        slice(round((low - first[axis]) / step), round((high - first[axis]) / step) + 1)
        for axis, (low, high) in enumerate(FIELD_MM)
    ]
    axis = {"coronal": 1, "axial": 2}[plane]
    place = round((mm - first[axis]) / step)
    cut = volume[ends[0], place, ends[2]] if plane == "coronal" else volume[ends[0], ends[1], place]
    return cut[::-1, ::-1].T


def _tinted(
    cut: Float32[np.ndarray, "height width"], names: UInt8[np.ndarray, "height width"], values: Mapping[str, float],
    largest: float,
) -> Picture:  # fmt: skip
    """A slice in grey with the regions' colours over it, and a line around each tinted region."""
    size = (cut.shape[1] * PIXELS_A_VOXEL, cut.shape[0] * PIXELS_A_VOXEL)
    smooth = Image.fromarray((255 * cut).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture = np.repeat(np.asarray(smooth, np.float32)[..., None], 3, axis=2)
    fine = np.repeat(np.repeat(names, PIXELS_A_VOXEL, 0), PIXELS_A_VOXEL, 1)
    for name, value in values.items():
        where = fine == REGIONS.index(name)
        colour = np.array(RAISES if value > 0 else LOWERS, np.float32)
        share = FAINTEST + (STRONGEST - FAINTEST) * min(abs(value) / largest, 1)
        picture[where] = (1 - share) * picture[where] + share * colour
        edge = where & ~_inner(where)
        picture[edge] = 0.25 * picture[edge] + 0.75 * colour
    return picture.round().astype(np.uint8)


def _inner(where: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The pixels all of whose four neighbours are there, too."""
    inner = where.copy()
    inner[1:] &= where[:-1]
    inner[:-1] &= where[1:]
    inner[:, 1:] &= where[:, :-1]
    inner[:, :-1] &= where[:, 1:]
    return inner


def _middle(where: Bool[np.ndarray, "height width"]) -> tuple[int, int] | None:
    """The pixel of a region that is nearest to its middle; None where there is too little of it to name."""
    places = np.argwhere(where)
    if len(places) < LEAST_VOXELS:
        return None
    row, column = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
    return int(row), int(column)


def _png(picture: Picture) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG", compress_level=6)
    return "data:image/png;base64," + b64encode(content.getvalue()).decode()
