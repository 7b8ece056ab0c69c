"""A folder of prepared images has a sheet for each session and one page, and neither is made twice for nothing."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from permmoe.data.volumes import grid_affine
from permmoe.preparation import pictures as pictures_room
from permmoe.preparation.derivatives import Derivative, write_derivative
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.prepare import Measured, PreparedImage
from permmoe.preparation.pictures import write_pictures
from permmoe.preparation.quality.contact_sheet import Shown, digest_of_sheet
from permmoe.preparation.quality.judged import Judged
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.rules import Finding, Judgement, Verdict, judge_alone
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from tests.support.prepared_heads import AMYLOID, GRID, T1, head, mask

SETTINGS = PreparationSettings(spacing_mm=4.0)


def prepared(contrast: tuple[float, float, float], measured: Measured) -> PreparedImage:
    image, brain = (Image(v.astype(np.float32), grid_affine(GRID)) for v in (head(contrast), mask()))
    return PreparedImage(image, brain, np.diag([0.9, 0.9, 0.9, 1.0]), True, measured)


T1_IMAGE = prepared(T1, Measured(0.9, 0.2, mask_ml=1400.0))
PET_IMAGE = prepared(AMYLOID, Measured(0.5, 0.1, None, 1.5, 4000.0, 0.1, 900))


def derivative(out: Path, subject: str, modality: str, recipe: str = "a") -> Derivative:
    source = out.parent / f"{subject}-{modality}.nii.gz"
    source.write_bytes(b"raw")
    scan = Scan(subject, "M000", modality, (source,), tracer="AV45" if modality == "amyloid" else "")
    image = T1_IMAGE if modality == "t1" else PET_IMAGE
    made = SETTINGS.prepared_as(modality, scan.tracer)
    return write_derivative(out, scan, image, recipe, made, metrics_of(image, modality, GRID))


def judged(made: Derivative) -> tuple[Derivative, Judged]:
    scan, found = made.scan, made.metrics
    return made, Judged(
        scan.subject_id, scan.session, scan.modality, found, judge_alone(found), Path(), str(made.image)
    )


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[Derivative, Judged]]:
    wanted = [("011_S_0001", "t1"), ("011_S_0001", "amyloid"), ("011_S_0002", "t1")]
    return [judged(derivative(tmp_path / "out", *one)) for one in wanted]


def test_a_session_s_images_share_a_sheet_and_the_page_names_it(
    tmp_path: Path, images: list[tuple[Derivative, Judged]]
) -> None:
    out = tmp_path / "out"
    named = write_pictures(out, images, GRID, is_synthetic=True)
    sheets = sorted((out / "sheets").iterdir())
    assert [s.name for s in sheets] == ["sub-ADNI011S0001_ses-M000.png", "sub-ADNI011S0002_ses-M000.png"]
    assert [judged.sheet for _, judged in named] == [sheets[0], sheets[0], sheets[1]]
    html = (out / "qc.html").read_text(encoding="utf-8")
    assert "sheets/sub-ADNI011S0001_ses-M000.png" in html and "3 images of 2 sessions" in html
    assert "Synthetic data" in html
    assert {stat.S_IMODE(path.stat().st_mode) for path in (*sheets, out / "qc.html")} == {0o600}


def test_a_second_run_draws_nothing_and_a_change_draws_its_session_alone(
    tmp_path: Path, images: list[tuple[Derivative, Judged]]
) -> None:
    out = tmp_path / "out"
    write_pictures(out, images, GRID, is_synthetic=False)
    first, second = (out / "sheets" / f"sub-ADNI011S000{n}_ses-M000.png" for n in (1, 2))
    before = [path.stat().st_mtime_ns for path in (first, second)]
    write_pictures(out, images, GRID, is_synthetic=False)
    assert [path.stat().st_mtime_ns for path in (first, second)] == before
    doubt = Judgement((Finding(Verdict.LOOK, "noise", "grainy", None),))
    changed = [*images[:2], (images[2][0], replace(images[2][1], judgement=doubt))]
    write_pictures(out, changed, GRID, is_synthetic=False)
    assert first.stat().st_mtime_ns == before[0] and second.stat().st_mtime_ns > before[1]


def test_ventricles_of_a_t1_that_failed_are_not_drawn_over_other_images(
    tmp_path: Path, images: list[tuple[Derivative, Judged]], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Shown] = []
    monkeypatch.setattr(pictures_room, "write_sheet", lambda path, title, shown, *_, **__: drawn.extend(shown))
    failure = Judgement((Finding(Verdict.FAILED, "filled", "half a head", None),))
    for t1 in (images[0], (images[0][0], replace(images[0][1], judgement=failure))):
        write_pictures(tmp_path / "out", [t1, images[1]], GRID, is_synthetic=False)
    assert [shown.own_t1 is not None for shown in drawn if shown.modality == "amyloid"] == [True, False]


def test_an_image_that_was_prepared_anew_has_a_new_sheet(
    tmp_path: Path, images: list[tuple[Derivative, Judged]]
) -> None:
    out = tmp_path / "out"
    write_pictures(out, images, GRID, is_synthetic=False)
    sheet = out / "sheets" / "sub-ADNI011S0002_ses-M000.png"
    before = digest_of_sheet(sheet)
    write_pictures(out, [judged(derivative(out, "011_S_0002", "t1", recipe="b"))], GRID, is_synthetic=False)
    assert digest_of_sheet(sheet) not in (before, None)


def test_a_sheet_that_is_cut_short_is_drawn_again(tmp_path: Path, images: list[tuple[Derivative, Judged]]) -> None:
    out = tmp_path / "out"
    write_pictures(out, images, GRID, is_synthetic=False)
    sheet = out / "sheets" / "sub-ADNI011S0002_ses-M000.png"
    whole = sheet.read_bytes()
    sheet.write_bytes(b"not a picture")
    write_pictures(out, images, GRID, is_synthetic=False)
    assert sheet.read_bytes() == whole


def test_what_the_preparation_noted_is_among_the_metrics() -> None:
    found = metrics_of(PET_IMAGE, "amyloid", GRID, T1_IMAGE)
    assert (found.reference_uptake, found.reference_variation, found.reference_voxels) == (4000.0, 0.1, 900)
    assert (found.motion_mm, found.agreement, found.lead, found.follows_t1) == (1.5, 0.5, 0.1, True)
    assert found.largest_scale == pytest.approx(1 / 0.9) and found.own_t1_disagreement_mm is not None
    of_t1 = metrics_of(T1_IMAGE, "t1", GRID, T1_IMAGE)
    assert of_t1.mask_volume_ml == 1400 and of_t1.motion_mm is None and of_t1.own_t1_disagreement_mm is None


def test_metrics_are_in_the_sidecar(tmp_path: Path) -> None:
    made = derivative(tmp_path / "out", "011_S_0001", "t1")
    sidecar = next((tmp_path / "out").rglob("*T1w.json"))
    assert json.loads(sidecar.read_text())["Metrics"]["mask_volume_ml"] == made.metrics.mask_volume_ml
