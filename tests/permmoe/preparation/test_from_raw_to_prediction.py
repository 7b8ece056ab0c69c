"""The whole way, with nothing replaced: an invented patient's raw scans become images, and these a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from permmoe.cli import app
from permmoe.config import ModelConfig
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.cohort.layouts import volume_path
from permmoe.data.cohort.settings import RawConfig, SiteConfig
from permmoe.data.cohort.subjects import draw_subject
from permmoe.data.images import find_images
from permmoe.modality import Modality
from permmoe.preparation.derivatives import matrix_path
from permmoe.preparation.folder import PreparedFolder, prepare_folder
from permmoe.preparation.quality.rules import Verdict
from permmoe.preparation.settings import PreparationSettings
from permmoe.runtime.checkpoint import save_checkpoint
from permmoe.training.seeds import make_model

pytestmark = pytest.mark.xdist_group("from_raw_to_prediction")

SETTINGS = PreparationSettings()
COHORT = CohortConfig(
    subjects=1,
    all_modalities=True,
    raw=RawConfig(dicom_subjects=0),
    sites=(SiteConfig(code="011", modalities=("t1", "amyloid")),),
)
MODEL = ModelConfig(
    modalities=(
        Modality(name="t1", prepared=SETTINGS.prepared_as("t1")),
        Modality(name="amyloid", normalisation="suvr", prepared=SETTINGS.prepared_as("amyloid")),
    ),
    experts=2,
    top_k=1,
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "raw"
    write_cohort(folder, COHORT, workers=1)
    for other in (*folder.rglob("*FLAIR*"), *folder.rglob("*AV1451*")):
        other.unlink()
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedFolder]:
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare_folder(raw, out, SETTINGS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    save_checkpoint(folder, make_model(MODEL, 0).state_dict(), {"model": MODEL.model_dump(mode="json")})
    return folder


def scan(raw: Path, modality: str) -> Path:
    subject = draw_subject(COHORT, 0)
    return volume_path(raw, subject, "amyloid" if modality == "amyloid" else "t1", COHORT)


def predicted(model: Path, *arguments: str) -> tuple[float, str]:
    result = CliRunner().invoke(app, ["predict", str(model), "--baseline-cdrsb", "1.5", "--json", *arguments])
    assert result.exit_code == 0, result.output
    [one] = json.loads(result.stdout.splitlines()[-1])["predictions"]
    return float(one["delta_cdrsb"]), result.stderr


def test_raw_scans_become_brains_that_lie_where_they_truly_belong(
    raw: Path, prepared: tuple[Path, PreparedFolder]
) -> None:
    out, folder = prepared
    assert {(judged.modality, judged.verdict) for _, judged in folder.images} == {
        ("t1", Verdict.GOOD), ("amyloid", Verdict.GOOD),
    }  # fmt: skip
    [truth] = (raw / "truth" / "raw").glob("*.json")
    true = json.loads(truth.read_text())
    grid = np.array(np.meshgrid([-45, 0, 45], [-80, -20, 45], [-20, 10, 55])).reshape(3, -1).T
    points = np.c_[grid, np.ones(len(grid))]
    for image in find_images(out).images:
        to_scan = np.loadtxt(matrix_path(image.path))
        [to_template, *_] = np.array(true[image.modality]["scanner_mm_to_template_mm"])
        errors = np.linalg.norm((points @ (to_template @ to_scan).T - points)[:, :3], axis=1)
        # The person's own shape is no affine map of the template's: the template's middle lies within millimetres.
        assert np.median(errors) < 3.5, image.modality
    volume = next(d.measured.mask_ml for d in folder.usable if d.scan.modality == "t1")
    assert volume is not None and abs(volume / true["t1"]["brain_ml"] - 1) < 0.12


def test_a_raw_scan_is_predicted_from_as_its_prepared_image_is(
    raw: Path, prepared: tuple[Path, PreparedFolder], model: Path
) -> None:
    out, _ = prepared
    images = {image.modality: image.path for image in find_images(out).images}
    said, _ = predicted(model, "--image", f"t1={images['t1']}")
    of_raw, warnings = predicted(model, "--image", f"t1={scan(raw, 't1')}")
    assert of_raw == pytest.approx(said, abs=1e-5) and "preparing the scans" in warnings


def test_an_image_that_was_prepared_in_another_way_is_refused_and_the_flag_is_named(
    prepared: tuple[Path, PreparedFolder], model: Path, tmp_path: Path
) -> None:
    out, _ = prepared
    [t1] = (i.path for i in find_images(out).images if i.modality == "t1")
    copy = tmp_path / "other.nii.gz"
    copy.write_bytes(t1.read_bytes())
    sidecar = json.loads(t1.with_name(t1.name.removesuffix(".nii.gz") + ".json").read_text())
    sidecar["Prepared"]["space"] = "MNI305"
    (tmp_path / "other.json").write_text(json.dumps(sidecar))
    arguments = ["predict", str(model), "--baseline-cdrsb", "1.5", "--image", f"t1={copy}"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0 and "prepared in another way" in refused.output
    (tmp_path / "other.json").unlink()
    vouched, _ = predicted(model, "--image", f"t1={copy}", "--images-are-prepared")
    assert vouched == pytest.approx(predicted(model, "--image", f"t1={t1}")[0])


def test_a_scan_of_no_head_is_refused_and_says_so(model: Path, tmp_path: Path) -> None:
    ball = np.zeros((60, 60, 60), np.float32)
    ball[20:40, 20:40, 20:40] = 100
    nib.save(nib.Nifti1Image(ball, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / "ball.nii.gz")
    arguments = ["predict", str(model), "--baseline-cdrsb", "1.5", "--image", f"t1={tmp_path / 'ball.nii.gz'}"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0 and "not used: t1" in refused.output
