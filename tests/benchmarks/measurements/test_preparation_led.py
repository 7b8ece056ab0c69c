"""A scan that was moved off its T1 is as far off as it was moved, and is judged as the preparation would judge it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from permmoe.data.volumes import grid_affine
from permmoe.preparation.derivatives import Derivative, write_derivative
from permmoe.preparation.images.image import Image, Matrix
from permmoe.preparation.images.prepare import LeadingT1, Measured, PreparedImage, prepare_pet
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.roc import Trial, account
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from permmoe_benchmarks.library.places import DISPLACEMENTS_MM, displacement, errors_mm
from permmoe_benchmarks.measurements import preparation_led
from permmoe_benchmarks.measurements.preparation_led import led_trials
from tests.support.prepared_heads import AMYLOID, GRID, T1, head, mask

POSES = {"t1": displacement(15.0, 3), "amyloid": displacement(25.0, 4)}
"""Where the scanners have the brain: maps from the template's millimetres to the scan's."""


def scanned(folder: Path, modality: str, contrast: tuple[float, float, float]) -> Scan:
    file = folder / f"{modality}.nii.gz"
    nib.save(nib.Nifti1Image(head(contrast), POSES[modality] @ grid_affine(GRID)), file)
    return Scan("011_S_0001", "M000", modality, (file,), tracer="AV45" if modality == "amyloid" else "")


def derivatives(folder: Path, off: Matrix) -> tuple[Derivative, Derivative]:
    """A T1 that was prepared rightly, and its PET, whose registration is off."""
    settings = PreparationSettings(spacing_mm=4.0)
    t1_scan, pet_scan = scanned(folder, "t1", T1), scanned(folder, "amyloid", AMYLOID)
    brain, inside = (Image(v.astype(np.float32), grid_affine(GRID)) for v in (head(T1), mask()))
    t1 = PreparedImage(brain, inside, POSES["t1"], True, Measured(0.9, 0.5, mask_ml=1400.0))
    matrix = POSES["amyloid"] @ off
    frame = Image(head(AMYLOID), np.linalg.inv(matrix) @ POSES["amyloid"] @ grid_affine(GRID))
    pet = prepare_pet([frame], [1.0], "whole_cerebellum", GRID, LeadingT1(t1, brain), is_registered=True)
    pet = PreparedImage(pet.image, pet.mask, matrix, True, pet.measured)
    out = folder / "out"
    return (
        write_derivative(out, t1_scan, t1, "a", settings.prepared_as("t1"), metrics_of(t1, "t1", GRID)),
        write_derivative(
            out, pet_scan, pet, "a", settings.prepared_as("amyloid"), metrics_of(pet, "amyloid", GRID, t1)
        ),
    )


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(preparation_led, "SETTINGS", PreparationSettings(spacing_mm=4.0))
    truth = {m: {"scanner_mm_to_template_mm": [np.linalg.inv(pose).tolist()]} for m, pose in POSES.items()}
    (tmp_path / "truth" / "raw").mkdir(parents=True)
    (tmp_path / "truth" / "raw" / "sub-ADNI011S0001.json").write_text(json.dumps(truth))
    return tmp_path


def trials_of(raw: Path, off: Matrix) -> list[Trial]:
    t1, pet = derivatives(raw, off)
    return led_trials(raw, pet, t1, seed=7)


def test_a_scan_is_as_far_off_as_it_was_moved_and_no_failure_passes(raw: Path) -> None:
    trials = trials_of(raw, np.eye(4))
    # The farthest one shows nothing of the reference region and is refused by the preparation itself.
    meant = [0.0, *(float(errors_mm(displacement(by, 7), np.eye(4)).mean()) for by in DISPLACEMENTS_MM[:-1])]
    assert [trial.true_error_mm for trial in trials] == pytest.approx(meant, abs=1e-4)
    shift = [trial.metrics.own_t1_disagreement_mm or 0.0 for trial in trials]
    assert shift[0] < 4 and shift[-1] > 10
    found = account(trials, beyond_mm=10.0)
    assert found.failures and not found.passed and not found.falsely_left_out


def test_a_registration_that_is_off_by_itself_counts_as_its_own_error(raw: Path) -> None:
    wrong = displacement(12.0, 5)
    first, *_ = trials_of(raw, wrong)
    assert first.true_error_mm == pytest.approx(float(errors_mm(wrong, np.eye(4)).mean()), abs=1e-4)
