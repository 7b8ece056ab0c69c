"""Whole heads that packages ship, and the same heads as another scanner would have seen them, in a known pose."""

from __future__ import annotations

import itertools
import site
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from permmoe.data.cohort.raw.pose import mapped, rotation
from permmoe.errors import DataError, nearest

Volume = Float32[np.ndarray, "x y z"]
Affine = Float[np.ndarray, "4 4"]

AXIS_ORDERS = tuple(
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for flips in itertools.product((0, 1), repeat=3)
)
"""All 48, as nibabel's axis codes: where each voxel axis points to."""

_CENTRE_MM = np.array([0.0, -18.0, 10.0])
"""About which a head turns and grows: the middle of the brain."""
_NECK_CENTRE_MM = (0.0, -40.0)
"""Left-right and back-front, towards which an extended neck narrows."""
_NARROWEST_NECK = 0.8
"""Width of an extended neck, against the head's lowest slice."""
_LONGEST_NECK_MM = 90.0
_WIDEST_STEP = 1.25
"""Between two samples of one voxel, in the head's own voxels."""


@dataclass(frozen=True)
class HeadSource:
    """Where a head comes from, for a message that helps whoever lacks it."""

    name: str
    file: str
    """Below a folder of Python packages, or below `folder`."""
    brain_file: str = ""
    """The brain alone, or its mask; empty where nobody made one."""
    folder: Path | None = None
    remedy: str = ""
    is_stripped: bool = False
    origin: str = ""

    def path(self, file: str) -> Path | None:
        """The file on this machine, or None; packages are looked for without importing them."""
        roots = [self.folder] if self.folder else [Path(entry) for entry in (*sys.path, *site.getsitepackages())]
        return next((root / file for root in roots if (root / file).is_file()), None)


SOURCES = (
    HeadSource(
        "colin27", "ch2.nii.gz", "ch2bet.nii.gz", Path("/usr/share/mricron/templates"),
        "apt-get install mricron-data", origin="Colin27, 27 scans of one man averaged (Holmes et al. 1998)",
    ),
    HeadSource(
        "mni152", "nimare/resources/templates/tpl-MNI152NLin6Asym_res-01_T1w.nii.gz",
        "nimare/resources/templates/tpl-MNI152NLin6Asym_res-01_desc-brain_mask.nii.gz",
        remedy="pip install --no-deps nimare", origin="average of 152 heads, non-linear, 6th generation",
    ),
    HeadSource(
        "mean-face", "pydeface/data/mean_reg2mean.nii.gz", remedy="pip install --no-deps pydeface",
        origin="average of heads with faces and necks, rigidly aligned (Gulban et al. 2019)",
    ),
    HeadSource(
        "icbm152", "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", remedy="pip install nilearn",
        is_stripped=True, origin="ICBM152 2009a, symmetric, skull stripped",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A head in template millimetres, up to an affine transform, as its package ships it."""

    name: str
    image: nib.Nifti1Image
    """T1, its voxel axes RAS."""
    brain: nib.Nifti1Image | None = None
    """Its brain mask, 0 and 1, on the image's voxels; None where nobody made one."""
    is_stripped: bool = False
    brain_bottom_mm: float = -68.0
    """The lowest point of the brain, below which only neck is cut off or put on."""


def find_heads(names: Sequence[str] = ()) -> list[Head]:
    """The heads that this machine has, or those named.

    Raises DataError where a named one is missing, or where no head with a skull is here.
    """
    known = {source.name: source for source in SOURCES}
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"no test head {unknown[0]!r}; {nearest(unknown[0], known)}")
    chosen = [known[name] for name in names or known]
    lacking = [source for source in chosen if source.path(source.file) is None]
    found = [source for source in chosen if source not in lacking]
    if lacking and (names or all(source.is_stripped for source in found)):
        remedies = "; ".join(f"{source.name}: {source.remedy}" for source in lacking)
        raise DataError(f"test heads are not on this machine; get them by: {remedies}")
    return [_read(source) for source in found]


def _read(source: HeadSource) -> Head:
    path = source.path(source.file)
    assert path is not None
    image = nib.as_closest_canonical(nib.load(path))
    brain_path = source.path(source.brain_file) if source.brain_file else None
    brain = None
    if brain_path is not None:
        inside = np.asarray(nib.as_closest_canonical(nib.load(brain_path)).dataobj) > 0
        brain = nib.Nifti1Image(ndimage.binary_fill_holes(inside).astype(np.uint8), image.affine)
    return Head(source.name, image, brain, source.is_stripped)


@dataclass(frozen=True)
class Scanning:
    """How another scanner saw the head."""

    angles_degrees: tuple[float, float, float]
    """About the left-right, back-front and down-up axes, in this order."""
    shift_mm: tuple[float, float, float]
    scale: tuple[float, float, float]
    """Size of the head along its own axes, against the original."""
    voxel_mm: tuple[float, float, float]
    """Along left-right, back-front and down-up."""
    axes: str
    """Where the voxel axes point to, one of `AXIS_ORDERS`."""
    tilt_degrees: tuple[float, float, float]
    """Of the voxel axes against the scanner's."""
    neck_mm: float
    """How far the image reaches below the brain."""
    margin_mm: tuple[float, float, float]
    """Air at each side of the head."""
    bias: float
    """The shading's largest departure from 1."""
    noise: float
    """SD of Rician noise, a share of the head's 95th percentile."""
    level: float
    """The head's 95th percentile in the file."""

    @property
    def to_original(self) -> Affine:
        """From this scanner's millimetres to the original head's."""
        forward = np.eye(4)
        forward[:3, :3] = rotation(np.array(self.angles_degrees)) @ np.diag(self.scale)
        forward[:3, 3] = _CENTRE_MM + self.shift_mm - forward[:3, :3] @ _CENTRE_MM
        return np.linalg.inv(forward)


def draw_scanning(seed: int) -> Scanning:
    """±20° about each axis, ±30 mm, ±8% along each axis, voxels of 1-3 mm, any axis order, long and short necks."""
    rng = np.random.default_rng([seed, 20])

    def three(lowest: float, highest: float) -> tuple[float, float, float]:
        x, y, z = rng.uniform(lowest, highest, 3).tolist()
        return x, y, z

    return Scanning(
        angles_degrees=three(-20, 20),
        shift_mm=three(-30, 30),
        scale=three(0.92, 1.08),
        voxel_mm=three(1, 3),
        axes=AXIS_ORDERS[int(rng.integers(len(AXIS_ORDERS)))],
        tilt_degrees=three(-10, 10),
        neck_mm=float(rng.uniform(2, _LONGEST_NECK_MM)),
        margin_mm=three(2, 25),
        bias=float(rng.uniform(0, 0.4)),
        noise=float(rng.uniform(0.005, 0.05)),
        level=float(np.exp(rng.uniform(np.log(150), np.log(4000)))),
    )


def perturbed(head: Head, seed: int) -> tuple[nib.Nifti1Image, Affine]:
    """The head as another scanner saw it, and the map from that image's millimetres to the original head's.

    The image has 16-bit integers, and q-form and s-form say "scanner" (code 1).
    """
    scanning = draw_scanning(seed)
    return scanned(head, scanning, np.random.default_rng([seed, 21])), scanning.to_original


def scanned(head: Head, scanning: Scanning, rng: np.random.Generator) -> nib.Nifti1Image:
    """The head as `scanning` says; `rng` draws the shading's shape and the noise."""
    voxels, affine = _with_long_neck(head)
    level = float(np.percentile(voxels[_foreground(voxels)], 95))
    target, shape = _field_of_view(voxels, affine, head.brain_bottom_mm, scanning)
    to_head = np.linalg.inv(affine) @ scanning.to_original @ target
    signal = _sampled(voxels, to_head, shape) * np.float32(scanning.level / level)
    signal *= _shading(shape, scanning.bias, rng)
    sigma = np.float32(scanning.noise * scanning.level)
    noise = sigma * rng.standard_normal((2, *shape), dtype=np.float32)
    if head.is_stripped:
        noise *= signal > 0
    integers = np.round(np.hypot(signal + noise[0], noise[1])).clip(0, 32767).astype(np.int16)
    reoriented = nib.Nifti1Image(integers, target).as_reoriented(nib.io_orientation(_axes_affine(scanning.axes)))
    reoriented.set_sform(reoriented.affine, code="scanner")
    reoriented.set_qform(reoriented.affine, code="scanner")
    reoriented.header.set_xyzt_units("mm")
    return reoriented


def _axes_affine(axes: str) -> Affine:
    """Maps voxels, whose axes point to `axes`, to RAS."""
    orientation = nib.orientations.axcodes2ornt(axes)
    return np.asarray(nib.orientations.inv_ornt_aff(orientation, (1, 1, 1)))


def _foreground(voxels: Volume) -> Bool[np.ndarray, "x y z"]:
    return np.asarray(voxels > 0.1 * np.percentile(voxels, 99))


def _with_long_neck(head: Head) -> tuple[Volume, Affine]:
    """The head with its lowest slice continued downwards, ever narrower, and its affine; a bare brain as it is."""
    voxels, affine = head.image.get_fdata(dtype=np.float32), head.image.affine.copy()
    if head.is_stripped:
        return voxels, affine
    spacing_mm = float(np.linalg.norm(affine[:3, 2]))
    added = round((_LONGEST_NECK_MM + 60) / spacing_mm)
    lowest = ndimage.gaussian_filter(voxels[:, :, :3].mean(axis=2), 1.0)
    centre = (np.linalg.inv(affine) @ [*_NECK_CENTRE_MM, affine[2, 3], 1])[:2]
    neck = np.empty((*voxels.shape[:2], added), np.float32)
    for depth in range(added):
        width = 1 - (1 - _NARROWEST_NECK) * min(depth * spacing_mm / 50, 1)
        matrix = np.full(2, 1 / width)
        neck[:, :, added - 1 - depth] = ndimage.affine_transform(lowest, matrix, centre - matrix * centre, order=1)
    affine[:3, 3] -= added * affine[:3, 2]
    return np.concatenate([neck, voxels], axis=2), affine


def _field_of_view(
    voxels: Volume, affine: Affine, brain_bottom_mm: float, scanning: Scanning
) -> tuple[Affine, tuple[int, int, int]]:
    """Affine and shape of voxels that hold the head from its top to `neck_mm` below its brain, axes RAS but tilted."""
    to_scanner, tilt = np.linalg.inv(scanning.to_original), rotation(np.array(scanning.tilt_degrees))
    coarse = np.argwhere(_foreground(voxels[::2, ::2, ::2])) * 2.0
    head_mm = mapped(affine, coarse)
    above_neck = mapped(to_scanner, head_mm[head_mm[:, 2] > brain_bottom_mm]) @ tilt
    lower, upper = above_neck.min(axis=0) - scanning.margin_mm, above_neck.max(axis=0) + scanning.margin_mm
    lower[2] = above_neck[:, 2].min() - scanning.neck_mm
    spacing = np.array(scanning.voxel_mm)
    target = np.eye(4)
    target[:3, :3] = tilt * spacing
    target[:3, 3] = tilt @ (lower + spacing / 2)
    x, y, z = (int(n) for n in np.ceil((upper - lower) / spacing))
    return target, (x, y, z)


def _sampled(voxels: Volume, to_head: Affine, shape: tuple[int, int, int]) -> Volume:
    """The mean over each voxel, from samples so close that no slice of the head is skipped."""
    times = np.ceil(np.linalg.norm(to_head[:3, :3], axis=0) / _WIDEST_STEP).astype(int)
    matrix = to_head[:3, :3] / times
    first = to_head[:3, 3] + to_head[:3, :3] @ ((1 / times - 1) / 2)
    fine = ndimage.affine_transform(voxels, matrix, first, output_shape=tuple(shape * times), order=1)
    (x, y, z), (i, j, k) = shape, times.tolist()
    return np.asarray(fine.reshape(x, i, y, j, z, k).mean(axis=(1, 3, 5), dtype=np.float32))


def _shading(shape: tuple[int, int, int], bias: float, rng: np.random.Generator) -> Volume:
    """A smooth field that departs from 1 by at most `bias`, and somewhere by just that."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    terms = [x, y, z, x * y, y * z, x * z, x * x, y * y, z * z, x * y * z]
    field = sum(np.float32(weight) * term for weight, term in zip(rng.standard_normal(len(terms)), terms, strict=True))
    field = np.broadcast_to(field - np.mean(field), shape)
    return np.asarray(1 + np.float32(bias) * field / np.abs(field).max(), dtype=np.float32)
