"""The cohort as scanners write it: whole heads in known poses around the brains of the ordinary cohort."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread
from scipy import ndimage

from permmoe.config import parse_config
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.cohort.anatomy import load_anatomy
from permmoe.data.cohort.imaging import render
from permmoe.data.cohort.layouts import volume_path
from permmoe.data.cohort.raw.acquisition import Acquired, sampled
from permmoe.data.cohort.raw.brain import draw_brain
from permmoe.data.cohort.raw.dicom import dicom_files
from permmoe.data.cohort.raw.head import AXES_MM, Head, Tissue, draw_head, on_head_grid
from permmoe.data.cohort.raw.pose import mapped, rotation
from permmoe.data.cohort.raw.protocol import Field
from permmoe.data.cohort.raw.session import RawScan
from permmoe.data.cohort.scanners import site_scanner
from permmoe.data.cohort.settings import MODALITIES, ImageModality, RawConfig, SiteConfig
from permmoe.data.cohort.subjects import draw_subject
from permmoe.errors import ConfigurationError

RAW = CohortConfig(subjects=2, all_modalities=True, raw=RawConfig(dicom_subjects=1))
PET: tuple[ImageModality, ...] = ("amyloid", "tau")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "bids"
    write_cohort(folder, RAW, workers=1)
    return folder


def truth(written: Path, index: int) -> dict[str, dict[str, object]]:
    subject = draw_subject(RAW, index)
    found = json.loads((written / "truth" / "raw" / f"{subject.bids_id}.json").read_text())
    assert isinstance(found, dict)
    return found


def image(written: Path, index: int, modality: ImageModality) -> nib.Nifti1Image:
    return nib.load(volume_path(written, draw_subject(RAW, index), modality, RAW))


def to_template(written: Path, index: int, modality: ImageModality, frame: int = 0) -> np.ndarray:
    return np.array(truth(written, index)[modality]["scanner_mm_to_template_mm"])[frame]


def on_ordinary_grid(voxels: np.ndarray, affine: np.ndarray, to_template: np.ndarray) -> np.ndarray:
    """A raw image on the ordinary cohort's voxels, by the true map, smoothed to their size first."""
    anatomy = load_anatomy(RAW.grid)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    smooth = ndimage.gaussian_filter(voxels, 0.42 * np.sqrt(np.clip(16 - spacing**2, 0, None)) / spacing)
    at = np.linalg.inv(affine) @ np.linalg.inv(to_template) @ anatomy.affine
    return ndimage.affine_transform(smooth, at[:3, :3], at[:3, 3], output_shape=RAW.grid.shape, order=1)


def taken_back(written: Path, index: int, modality: ImageModality) -> np.ndarray:
    """A scan on the ordinary cohort's voxels; PET as the mean of its frames, in the ordinary cohort's ratios."""
    raw, true = image(written, index, modality), truth(written, index)[modality]
    voxels = raw.get_fdata(dtype=np.float32).reshape(*raw.shape[:3], -1)
    frames = [
        on_ordinary_grid(voxels[..., frame], raw.affine, to_template(written, index, modality, frame))
        for frame in range(voxels.shape[3])
    ]
    return np.mean(frames, axis=0) / true.get("bq_per_ml_at_ratio_1", 1.0)


def ordinary_image(index: int, modality: ImageModality) -> np.ndarray:
    """What the ordinary cohort shows of the same subject, but for its noise."""
    subject = draw_subject(RAW, index)
    scanner = replace(site_scanner(RAW.seed, subject.site.code, RAW.site_shift), mri_noise=0.0, pet_noise=0.0)
    return render(subject, scanner, load_anatomy(RAW.grid), RAW.seed, (modality,))[modality]


def test_a_cohort_that_is_not_raw_keeps_its_digest() -> None:
    assert "raw" not in CohortConfig().model_dump()
    assert CohortConfig().digest() != RAW.digest()


def test_raw_heads_are_not_written_as_caps() -> None:
    with pytest.raises(ConfigurationError, match="layout = bids"):
        parse_config({"raw": {}, "layout": "caps"}, CohortConfig, "the cohort")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_true_map_gives_the_ordinary_image_back(written: Path, index: int, modality: ImageModality) -> None:
    ordinary, back = ordinary_image(index, modality), taken_back(written, index, modality)
    inside = ndimage.binary_erosion(load_anatomy(RAW.grid).brain)
    scale = 1.0 if modality in PET else float(np.median(ordinary[inside]) / np.median(back[inside]))
    error = np.abs(back[inside] * scale - ordinary[inside]) / np.median(ordinary[inside])
    # Tau hardly stands out from the noise of a scan in most of the brain.
    assert np.corrcoef(back[inside], ordinary[inside])[0, 1] > (0.8 if modality == "tau" else 0.95)
    assert np.median(error) < 0.06


def test_a_wrong_map_does_not_give_the_ordinary_image_back(written: Path) -> None:
    raw, inside = image(written, 1, "t1"), load_anatomy(RAW.grid).brain
    back = on_ordinary_grid(raw.get_fdata(dtype=np.float32), raw.affine, np.eye(4))
    assert np.corrcoef(back[inside], ordinary_image(1, "t1")[inside])[0, 1] < 0.5


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("modality", PET)
def test_the_true_scale_gives_the_ordinary_ratios_of_the_cerebellum(
    written: Path, index: int, modality: ImageModality
) -> None:
    anatomy = load_anatomy(RAW.grid)
    cerebellum = anatomy.channel("cerebellum") * anatomy.brain
    expected, found = (
        float(np.average(volume, weights=cerebellum))
        for volume in (ordinary_image(index, modality), taken_back(written, index, modality))
    )
    assert found == pytest.approx(expected, rel=0.02)


def test_the_volume_of_the_brain_is_that_of_its_mask_in_the_scanner(written: Path) -> None:
    subject = draw_subject(RAW, 0)
    brain = draw_brain(subject, site_scanner(0, subject.site.code, 1.0), RAW.grid, 0, ("t1",))
    raw, true = image(written, 0, "t1"), truth(written, 0)
    field = Field(raw.affine, raw.shape)
    mask = sampled(on_head_grid(brain.mask.astype(np.float32)), field, to_template(written, 0, "t1"))
    voxel_ml = abs(np.linalg.det(raw.affine[:3, :3])) / 1000
    assert float(mask.sum()) * voxel_ml == pytest.approx(true["t1"]["brain_ml"], rel=0.01)
    assert 1000 < true["t1"]["brain_ml"] < 2100
    assert true["t1"]["brain_ml"] == true["tau"]["brain_ml"]


def test_every_scan_lies_differently_in_its_scanner(written: Path) -> None:
    maps = [to_template(written, index, modality) for index in (0, 1) for modality in MODALITIES]
    point = np.array([[40.0, 20.0, 30.0]])
    places = np.concatenate([mapped(np.linalg.inv(matrix), point) for matrix in maps])
    distances = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(8, 1)]
    assert distances.min() > 1
    assert distances.max() < 150


def test_frames_move_a_little_and_the_truth_follows(written: Path) -> None:
    point = np.array([[60.0, 20.0, 30.0]])
    places = [mapped(np.linalg.inv(to_template(written, 0, "amyloid", frame)), point)[0] for frame in range(4)]
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps.min() > 0
    assert steps.max() < 6


def test_headers_say_where_voxels_are_and_what_they_count(written: Path) -> None:
    orders = set()
    for index in (0, 1):
        for modality in MODALITIES:
            raw = image(written, index, modality)
            assert int(raw.header["qform_code"]) == int(raw.header["sform_code"]) == 1
            np.testing.assert_allclose(raw.get_qform(), raw.get_sform(), atol=1e-3)
            assert raw.header.get_data_dtype() == np.int16
            orders.add("".join(nib.aff2axcodes(raw.affine)))
            zooms = sorted(np.round(raw.header.get_zooms()[:3], 3))
            assert zooms[0] == (2 if modality in PET else 1)
            assert zooms[2] in {"t1": (1.2,), "flair": (3, 4, 5)}.get(modality, (3,))
    assert len(orders) > 2


@pytest.mark.parametrize("modality", PET)
def test_pet_has_the_sidecar_that_bids_asks_for(written: Path, modality: ImageModality) -> None:
    path = volume_path(written, draw_subject(RAW, 0), modality, RAW)
    said = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    raw = nib.load(path)
    assert said["Units"] == "Bq/mL"
    assert said["TracerName"] in ("AV45", "FBB", "PiB", "AV1451")
    assert said["InjectedRadioactivity"] > 0
    assert len(said["FrameTimesStart"]) == len(said["FrameDuration"]) == raw.shape[3] == 4
    assert np.diff(said["FrameTimesStart"]).tolist() == said["FrameDuration"][:-1]
    assert "PatientWeight" not in said
    # Counts, not ratios: without a reference region nobody knows what 1 is.
    assert raw.get_fdata()[raw.get_fdata() > 0].mean() > 500


def test_tables_are_those_of_the_ordinary_cohort(written: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "ordinary", RAW.model_copy(update={"raw": None}), workers=1)
    for name in ("clinical/ADNIMERGE.csv", "clinical/CDR.csv", "participants.tsv", "truth/latents.tsv"):
        pd.testing.assert_frame_equal(
            pd.read_csv(written / name, sep=None, engine="python"),
            pd.read_csv(tmp_path / "ordinary" / name, sep=None, engine="python"),
        )


def test_a_stopped_writer_goes_on_and_the_bytes_do_not_depend_on_workers(tmp_path: Path) -> None:
    site = SiteConfig(code="011", modalities=("amyloid",))
    changes = {"sites": (site,), "all_modalities": False, "raw": RawConfig(dicom_subjects=0)}
    pet_alone = RAW.model_copy(update=changes)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "stopped", pet_alone, workers=1, progress=stop)
    assert len(list((tmp_path / "stopped" / "truth" / "raw").iterdir())) == 1
    write_cohort(tmp_path / "stopped", pet_alone, workers=1)
    write_cohort(tmp_path / "at_once", pet_alone, workers=2)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "at_once")


def test_dicom_series_show_what_the_nifti_image_shows(written: Path) -> None:
    subject = draw_subject(RAW, 0)
    folder = written / "sourcedata" / "dicom" / subject.ptid
    names = {path.name.split("_", 1)[1] for path in folder.iterdir()}
    assert {"3_Plane_Localizer", "MPR_Axial_Range", "Sagittal_3D_MPRAGE", "Axial_T2_FLAIR"} < names
    assert len(list((written / "sourcedata" / "dicom").iterdir())) == 1
    [series] = [path for path in folder.iterdir() if path.name.endswith("MPRAGE")]
    raw = image(written, 0, "t1")
    slices = [dcmread(path) for path in sorted(series.iterdir())]
    assert len(slices) == raw.shape[2]
    place = len(slices) // 3
    one, voxels = slices[place], raw.get_fdata()[:, :, place]
    np.testing.assert_allclose(one.pixel_array.T, voxels, atol=0.51)
    # DICOM counts millimetres to the left and to the back.
    directions = np.array(one.ImageOrientationPatient, float).reshape(2, 3) * [-1, -1, 1]
    corner = np.array(one.ImagePositionPatient, float) * [-1, -1, 1]
    rows_apart, columns_apart = map(float, one.PixelSpacing)
    seen = corner + directions[0] * columns_apart * 7 + directions[1] * rows_apart * 11
    np.testing.assert_allclose(seen, mapped(raw.affine, np.array([[7.0, 11.0, place]]))[0], atol=1e-3)


def test_pet_as_dicom_has_bq_per_ml_frame_by_frame(written: Path) -> None:
    subject = draw_subject(RAW, 0)
    [series] = (written / "sourcedata" / "dicom" / subject.ptid).glob("*Amyloid*")
    raw = image(written, 0, "amyloid")
    slices = [dcmread(path) for path in sorted(series.iterdir())]
    assert len(slices) == raw.shape[2] * raw.shape[3]
    last = slices[-1]
    values = last.pixel_array.T * float(last.RescaleSlope)
    np.testing.assert_allclose(values, raw.get_fdata()[:, :, -1, -1], rtol=1e-5, atol=0.1)
    assert last.Units == "BQML"
    assert slices[0].AcquisitionTime < last.AcquisitionTime


def test_equal_scans_give_equal_dicom() -> None:
    acquired = Acquired(np.arange(3 * 5 * 7, dtype=np.int16).reshape(3, 5, 7, 1), 2.0, np.diag([1.0, 2, 3, 1]))
    scan = RawScan("t1", acquired, (np.eye(4),), 1400.0)
    first, second = (dict(dicom_files(draw_subject(RAW, 0), [scan], {})) for _ in range(2))
    assert first == second
    assert len({dcmread(BytesIO(content)).SOPInstanceUID for content in first.values()}) == len(first)


@pytest.fixture(scope="module")
def head() -> Head:
    subject = draw_subject(RAW, 0)
    brain = draw_brain(subject, site_scanner(0, subject.site.code, 1.0), RAW.grid, 0, ("t1",))
    return draw_head(brain.mask, np.random.default_rng(0))


def test_the_skull_closes_over_the_brain_and_skin_over_all(head: Head) -> None:
    tissue = head.tissue
    above = tissue[:, :, AXES_MM[2] > 0]
    brain_touches = ndimage.binary_dilation(above == Tissue.BRAIN) & (above != Tissue.BRAIN)
    assert set(np.unique(above[brain_touches])) <= {Tissue.FLUID, Tissue.BONE}
    air_touches = ndimage.binary_dilation(above == Tissue.AIR) & (above != Tissue.AIR)
    assert (above[air_touches] == Tissue.SKIN).mean() > 0.95


def test_a_head_has_two_eyes_in_fat_and_a_neck_with_a_cord(head: Head) -> None:
    labels, eyes = ndimage.label(head.tissue == Tissue.EYE)
    assert eyes == 2
    volumes_ml = np.bincount(labels.ravel())[1:] * 0.008
    assert (volumes_ml > 3).all()
    assert (volumes_ml < 9).all()
    neck = head.tissue[:, :, AXES_MM[2] < -120]
    assert (neck == Tissue.CORD).any()
    assert (neck == Tissue.BRAIN).sum() == 0
    assert (neck == Tissue.MUSCLE).mean() > 0.1


def test_a_turn_about_an_axis_is_counter_clockwise_and_those_about_x_come_first() -> None:
    np.testing.assert_allclose(rotation(np.array([0.0, 0.0, 90.0])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation(np.array([90.0, 0.0, 90.0])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation(np.array([90.0, 0.0, 90.0])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
