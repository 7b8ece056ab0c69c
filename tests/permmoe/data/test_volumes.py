"""The same brain gives the same tensor however it was stored, and a broken file gives its reason."""

import gzip
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import nibabel.tests
import nilearn
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.volumes import TEMPLATE_BRAIN_CENTRE_MM, _turned, grid_affine, read_volume
from permmoe.modality import Modality

MRI = Modality(name="t1")
PET = Modality(name="amyloid", normalisation="suvr")
GRID = VolumeGrid()
SMALL = VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0)
TEMPLATE = Path(nilearn.__file__).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
NIBABEL = Path(nibabel.tests.__file__).parent / "data"


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values from 0.5 to 2 in a box, zero around it."""
    voxels = np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(np.float32)
    voxels[0] = 0
    return voxels


def save(folder: Path, voxels: np.ndarray, affine: np.ndarray, name: str = "image.nii", code: int = 1) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=code)
    image.set_qform(None, code=0)
    nib.save(image, folder / name)
    return folder / name


def turned(image: nib.Nifti1Image, order: tuple[int, ...], signs: tuple[int, ...]) -> nib.Nifti1Image:
    """The same image with its axes stored in another order and direction."""
    return image.as_reoriented(np.array(list(zip(order, signs, strict=True))))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])


def brain_centre_mm(volume: torch.Tensor, grid: VolumeGrid) -> np.ndarray:
    """Centre of mass of the non-zero voxels, in MNI coordinates."""
    affine = grid_affine(grid)
    return affine[:3, :3] @ np.argwhere(volume.numpy() != 0).mean(axis=0) + affine[:3, 3]


@pytest.fixture(scope="module")
def template() -> nib.Nifti1Image:
    return nib.load(TEMPLATE)


@pytest.fixture(scope="module")
def template_on_grid() -> torch.Tensor:
    return read_volume(TEMPLATE, MRI, GRID)


def test_two_millimetre_grid_is_fsl_s() -> None:
    affine = grid_affine(VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0))
    assert affine.tolist() == [[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]]


def test_image_on_the_grid_is_not_touched(tmp_path: Path) -> None:
    voxels = noise(SMALL.shape)
    read = read_volume(save(tmp_path, voxels, grid_affine(SMALL)), PET, SMALL)
    assert torch.equal(read, torch.from_numpy(voxels))


def test_zscore_is_over_non_zero_voxels_and_leaves_the_background_zero(tmp_path: Path) -> None:
    voxels = 300 * noise(SMALL.shape)
    read = read_volume(save(tmp_path, voxels, grid_affine(SMALL)), MRI, SMALL).numpy()
    inside = voxels != 0
    np.testing.assert_allclose(read[inside], (voxels[inside] - voxels[inside].mean()) / voxels[inside].std(), atol=1e-5)
    assert (read[~inside] == 0).all()


def test_all_48_orientations_of_an_image_on_the_grid_give_the_same_tensor(tmp_path: Path) -> None:
    image = nib.Nifti1Image(noise(SMALL.shape), grid_affine(SMALL))
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        stored = turned(image, order, signs)
        nib.save(stored, tmp_path / "turned.nii")
        assert torch.equal(read_volume(tmp_path / "turned.nii", PET, SMALL), torch.from_numpy(noise(SMALL.shape)))


@pytest.mark.parametrize("tilt_degrees", [0.0, 4.0, 40.0])
def test_axes_are_turned_to_the_same_bits_as_by_monai(tilt_degrees: float) -> None:
    tilt = np.deg2rad(tilt_degrees)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    oblique = nib.Nifti1Image(noise(SMALL.shape), rotation @ grid_affine(SMALL))
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        stored = turned(oblique, order, signs)
        voxels = np.ascontiguousarray(stored.dataobj)
        found = _turned(voxels, stored.affine)
        image = MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(stored.affine))
        theirs = Orientation(axcodes="RAS", labels=None)(image)
        assert torch.equal(found.voxels, theirs.as_tensor()[0])
        assert torch.equal(found.affine, theirs.affine)


LEFT_OUT = """
import sys
from pathlib import Path
import permmoe_client.app, permmoe_server.app, permmoe.cli, permmoe_simulation.studies.simulate
from permmoe.config import VolumeGrid
from permmoe.data.volumes import read_volume
from permmoe.modality import Modality
for stored in sys.argv[1:]:
    read_volume(Path(stored), Modality(name="t1"), VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0))
print({"monai", "sklearn", "opacus"} & sys.modules.keys() or "none of them")
"""


def test_what_takes_seconds_to_import_is_left_out_of_a_process_that_does_not_use_it(tmp_path: Path) -> None:
    """Every site, server, command and simulation worker is a process; only resampling an image takes MONAI."""
    on_grid = save(tmp_path, noise(SMALL.shape), grid_affine(SMALL), "on_grid.nii")
    nib.save(turned(nib.load(on_grid), (2, 0, 1), (1, -1, 1)), tmp_path / "turned.nii")
    finer = save(tmp_path, noise((11, 13, 23)), np.diag([8.0, 8.0, 8.0, 1.0]), "finer.nii")

    def imported(*images: Path) -> str:
        command = [sys.executable, "-c", LEFT_OUT, *map(str, images)]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1]

    assert imported(on_grid, tmp_path / "turned.nii") == "none of them"
    assert "monai" in imported(on_grid, finer)


@pytest.mark.parametrize(
    ("order", "signs"), [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 2, 0), (1, 1, -1))]
)
def test_real_head_in_any_orientation_gives_the_same_tensor(
    tmp_path: Path,
    template: nib.Nifti1Image,
    template_on_grid: torch.Tensor,
    order: tuple[int, ...],
    signs: tuple[int, ...],
) -> None:
    nib.save(turned(template, order, signs), tmp_path / "turned.nii")
    torch.testing.assert_close(read_volume(tmp_path / "turned.nii", MRI, GRID), template_on_grid, atol=1e-5, rtol=0)


def test_template_lands_where_its_coordinates_say(template: nib.Nifti1Image, template_on_grid: torch.Tensor) -> None:
    """Slow reference: the mean over 4 mm cubes, sampled at each grid point's coordinates."""
    smooth = ndimage.uniform_filter(template.get_fdata(dtype=np.float32), size=4, origin=-1)
    to_image = np.linalg.inv(template.affine) @ grid_affine(GRID)
    # uniform_filter's window starts at its voxel here, so its centre lies 1.5 voxels further on.
    sampled = ndimage.affine_transform(
        smooth, to_image[:3, :3], to_image[:3, 3] - 0.5, output_shape=GRID.shape, order=1
    )
    inside = sampled > 20
    assert correlation(template_on_grid[torch.from_numpy(inside)], torch.from_numpy(sampled[inside])) > 0.97
    np.testing.assert_allclose(brain_centre_mm(template_on_grid, GRID), TEMPLATE_BRAIN_CENTRE_MM, atol=3)


def test_head_in_scanner_coordinates_is_centred(
    tmp_path: Path, template: nib.Nifti1Image, template_on_grid: torch.Tensor
) -> None:
    """The patient's head lies 6 cm from the isocentre and the field of view is oblique."""
    tilt = np.deg2rad(4)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    shift = np.eye(4)
    shift[:3, 3] = (23, 60, -41)
    voxels = np.asarray(template.dataobj)
    read = read_volume(save(tmp_path, voxels, shift @ rotation @ template.affine), MRI, GRID)
    np.testing.assert_allclose(brain_centre_mm(read, GRID), TEMPLATE_BRAIN_CENTRE_MM, atol=4)
    assert correlation(read, template_on_grid) > 0.7


def test_neck_does_not_pull_the_brain_off_centre(
    tmp_path: Path, template: nib.Nifti1Image, template_on_grid: torch.Tensor
) -> None:
    voxels = np.asarray(template.dataobj)
    neck = np.zeros((*voxels.shape[:2], 90), voxels.dtype)
    neck[50:150, 70:170] = 120
    affine = template.affine.copy()
    affine[:3, 3] = (-60, -90, -200)
    read = read_volume(save(tmp_path, np.concatenate([neck, voxels], axis=2), affine), MRI, GRID)
    brain = template_on_grid != 0
    assert correlation(read[brain], template_on_grid[brain]) > 0.5
    assert float((read[brain] != 0).float().mean()) > 0.95


def test_coordinates_are_trusted_where_name_or_header_says_template_space(tmp_path: Path) -> None:
    """A small box away from the grid's centre stays where its coordinates put it, unless nothing vouches for them."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-60, -70, -20)
    voxels = noise((11, 13, 7)) + 1
    by_name = save(tmp_path, voxels, affine, "sub-1_space-MNI152NLin2009cSym_T1w.nii")
    by_header = save(tmp_path, voxels, affine, "b.nii", code=4)
    by_nothing = save(tmp_path, voxels, affine, "c.nii", code=1)
    grid = VolumeGrid(shape=(24, 28, 24), spacing_mm=8.0)
    trusted = read_volume(by_name, PET, grid)
    assert torch.equal(trusted, read_volume(by_header, PET, grid))
    box_centre_mm = affine[:3, :3] @ np.array([5, 6, 3]) + affine[:3, 3]
    np.testing.assert_allclose(brain_centre_mm(trusted, grid), box_centre_mm, atol=4)
    centred = read_volume(by_nothing, PET, grid)
    np.testing.assert_allclose(brain_centre_mm(centred, grid), TEMPLATE_BRAIN_CENTRE_MM, atol=8)


def test_coarse_grid_averages_and_does_not_pick_single_voxels(tmp_path: Path) -> None:
    fine = VolumeGrid(shape=(20, 28, 44), spacing_mm=4.0)
    voxels = np.random.default_rng(1).uniform(0.5, 1.5, fine.shape).astype(np.float32)
    read = read_volume(save(tmp_path, voxels, grid_affine(fine)), PET, SMALL)
    blocks = voxels.reshape(5, 4, 7, 4, 11, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(read.numpy(), blocks, atol=1e-5)


def test_scale_factors_and_big_endian_integers_are_honoured(tmp_path: Path) -> None:
    voxels = np.round(noise(SMALL.shape) * 1000).astype(">i2")
    image = nib.Nifti1Image(voxels, grid_affine(SMALL), nib.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.001, 0.25)
    nib.save(image, tmp_path / "image.nii.gz")
    assert nib.load(tmp_path / "image.nii.gz").header.endianness == ">"
    read = read_volume(tmp_path / "image.nii.gz", PET, SMALL)
    np.testing.assert_allclose(read.numpy(), voxels.astype(np.float32) * 0.001 + 0.25, atol=1e-6)


def test_real_big_endian_image_equals_its_little_endian_copy(tmp_path: Path) -> None:
    original = nib.load(NIBABEL / "anatomical.nii")
    assert original.header.endianness == ">"
    grid = VolumeGrid(shape=(33, 41, 25), spacing_mm=2.0)
    read = read_volume(NIBABEL / "anatomical.nii", MRI, grid)
    copy = save(tmp_path, original.get_fdata().astype("<i2"), original.affine)
    torch.testing.assert_close(read, read_volume(copy, MRI, grid))
    flipped = torch.from_numpy(np.ascontiguousarray(original.get_fdata(dtype=np.float32)[::-1]))
    assert correlation(read, flipped) > 0.9999


def test_four_dimensional_image_is_refused_or_averaged_as_configured(tmp_path: Path) -> None:
    path = NIBABEL / "example4d.nii.gz"
    with pytest.raises(BrokenVolume, match="more than three dimensions"):
        read_volume(path, MRI, GRID)
    original = nib.load(path)
    mean = save(tmp_path, original.get_fdata(dtype=np.float32).mean(axis=3), original.affine)
    averaged = read_volume(path, MRI, GRID, frames="mean")
    torch.testing.assert_close(averaged, read_volume(mean, MRI, GRID), atol=1e-4, rtol=0)
    assert averaged.std() > 0.1


def test_single_frame_counts_as_three_dimensional(tmp_path: Path) -> None:
    voxels = noise(SMALL.shape)
    read = read_volume(save(tmp_path, voxels[..., None], grid_affine(SMALL)), PET, SMALL)
    assert torch.equal(read, torch.from_numpy(voxels))


def broken_files(folder: Path) -> dict[str, Path]:
    """One file for each way in which images are broken, by the reason expected."""
    good = noise(SMALL.shape)
    affine = grid_affine(SMALL)
    whole = save(folder, good, affine, "whole.nii.gz").read_bytes()
    unpacked = gzip.decompress(whole)

    def written(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    def with_voxel(value: float) -> np.ndarray:
        voxels = good.copy()
        voxels[2, 3, 5] = value
        return voxels

    flat = affine.copy()
    flat[:3, 2] = flat[:3, 1]
    return {
        "file not found": folder / "absent.nii.gz",
        "compressed file is truncated or damaged": written("cut.nii.gz", whole[: len(whole) // 2]),
        "compressed file is truncated or damaged ": written("header_cut.nii.gz", whole[:40]),
        "compressed file is truncated or damaged  ": written("not_packed.nii.gz", unpacked),
        "voxels cannot be read": written("cut.nii", unpacked[:-100]),
        "header cannot be read": written("text.nii", b"not an image at all" * 40),
        "header cannot be read ": written("empty.nii.gz", b""),
        "header cannot be read  ": written("notes.txt", b"notes"),
        "voxels are not all finite numbers": save(folder, with_voxel(np.nan), affine, "nan.nii"),
        "voxels are not all finite numbers ": save(folder, with_voxel(np.inf), affine, "inf.nii"),
        "all voxels are zero": save(folder, np.zeros(SMALL.shape, np.int16), affine, "zero.nii"),
        "all non-zero voxels are equal": save(folder, (good > 0).astype(np.int16), affine, "mask.nii"),
        "affine is singular": save(folder, good, flat, "flat.nii"),
        "not three-dimensional": save(folder, good[0] + 1, affine, "slice.nii"),
        "more than three dimensions": save(folder, np.stack([good, good], -1), affine, "frames.nii"),
        "field of view is too small": save(folder, good[:, :3], affine, "scout.nii"),
        "field of view is too small ": save(folder, good, np.diag([1.0, 1, 1, 1]), "tiny.nii"),
    }


@pytest.mark.parametrize("place", range(17))
def test_broken_file_is_refused_with_its_reason_and_no_path(tmp_path: Path, place: int) -> None:
    reason, path = list(broken_files(tmp_path).items())[place]
    with pytest.raises(BrokenVolume) as error:
        read_volume(path, MRI, SMALL)
    assert str(error.value) == reason.strip()


def test_damaged_bytes_inside_a_gzip_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, noise((24, 28, 24)), np.diag([8.0, 8, 8, 1]), "image.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BrokenVolume, match="truncated or damaged"):
        read_volume(path, MRI, GRID)


def test_pet_in_counts_is_not_taken_for_an_uptake_ratio(tmp_path: Path) -> None:
    path = save(tmp_path, 8000 * noise(SMALL.shape), grid_affine(SMALL))
    with pytest.raises(BrokenVolume, match="values are no uptake ratios"):
        read_volume(path, PET, SMALL)
    assert read_volume(path, MRI, SMALL).isfinite().all()


@pytest.mark.parametrize("other", ["turned by 20°", "flipped"])
def test_an_image_whose_sform_and_qform_disagree_in_one_space_is_refused(tmp_path: Path, other: str) -> None:
    affine = grid_affine(SMALL)
    turn = np.diag([-1.0, 1, 1, 1])
    if other != "flipped":
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(np.pi / 9), -np.sin(np.pi / 9)], [np.sin(np.pi / 9), np.cos(np.pi / 9)]]
    image = nib.Nifti1Image(noise(SMALL.shape), affine)
    for code, is_refused in ((4, True), (1, False)):  # a scanner's qform beside a registered sform is usual
        image.set_sform(affine, code=4)
        image.set_qform(turn @ affine, code=code)
        nib.save(image, tmp_path / "image.nii")
        if is_refused:
            with pytest.raises(BrokenVolume, match="sform and qform disagree"):
                read_volume(tmp_path / "image.nii", MRI, SMALL)
        else:
            assert read_volume(tmp_path / "image.nii", MRI, SMALL).isfinite().all()
    image.set_qform(affine, code=4)
    nib.save(image, tmp_path / "image.nii")
    assert read_volume(tmp_path / "image.nii", MRI, SMALL).isfinite().all()


NO_RATIOS = {
    "ten times": lambda uptake: uptake * 10,
    "twenty-five times": lambda uptake: uptake * 25,
    "in per mille": lambda uptake: uptake / 1000,
    "integers that lost their scale": lambda uptake: np.round(uptake * 99 / uptake.max()),
    "z-scored over the head": lambda uptake: np.where(
        uptake > 0, (uptake - uptake[uptake > 0].mean()) / uptake.std(), 0
    ),
    "z-scored over the image": lambda uptake: (uptake - uptake.mean()) / uptake.std(),
}


@pytest.mark.parametrize("change", NO_RATIOS)
def test_values_that_are_no_uptake_ratio_are_refused(tmp_path: Path, change: str) -> None:
    uptake = np.zeros((13, 13, 13), np.float32)
    uptake[3:10, 3:10, 3:10] = np.random.default_rng(0).gamma(9, 0.14, (7, 7, 7))
    affine = np.diag([16.0, 16, 16, 1])
    assert read_volume(save(tmp_path, uptake, affine), PET, SMALL).max() > 1
    for factor in (0.5, 0.8, 2.0):  # other reference regions
        assert read_volume(save(tmp_path, factor * uptake, affine), PET, SMALL).isfinite().all()
    path = save(tmp_path, NO_RATIOS[change](uptake).astype(np.float32), affine)
    with pytest.raises(BrokenVolume, match="values are no uptake ratios"):
        read_volume(path, PET, SMALL)
    assert read_volume(path, MRI, SMALL).isfinite().all()


def test_template_space_image_outside_the_grid_is_refused(tmp_path: Path) -> None:
    affine = grid_affine(SMALL)
    affine[:3, 3] += 1000
    path = save(tmp_path, noise((7, 7, 11)), affine, code=4)
    with pytest.raises(BrokenVolume, match="nothing of the image lies on the grid"):
        read_volume(path, MRI, SMALL)
