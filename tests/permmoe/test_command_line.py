"""`permmoe` from a synthetic cohort's files to a prediction; a mistake ends in a message, never a traceback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from permmoe import cli
from permmoe.config import VolumeGrid
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.predict import RESEARCH_NOTICE
from permmoe.runtime.command_line import run
from tests.permmoe.data.test_volumes import TEMPLATE, turned
from tests.support.command_line import Command, exit_status

GRID = VolumeGrid(shape=(12, 14, 12), spacing_mm=16.0)
RUN = """
model: {grid: {shape: [12, 14, 12], spacing_mm: 16.0}, encoder: {cells: [6, 7, 6]}, experts: 5, top_k: 2, width: 8}
train: {epochs: 2, batch_size: 8}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic subjects with their manifest, and a model trained on them."""
    folder = tmp_path_factory.mktemp("work")
    data = folder / "data"
    write_cohort(data, CohortConfig(subjects=24, sites=2, grid=GRID, follow_up_months=36), workers=1)
    (folder / "run.yaml").write_text(RUN)
    train_in(folder)
    return folder


def train_in(folder: Path) -> None:
    """Make the manifest of the cohort in `data` and train on it, as `run.yaml` says, by the commands themselves."""
    data = folder / "data"
    steps = [
        ["data", "adni", "--tables", data / "clinical", "--images", data, "--out", data / "manifest.csv"],
        ["train", data / "manifest.csv", "--out", folder / "run", "--config", folder / "run.yaml"],
    ]
    for step in steps:
        assert not exit_status(*step)


@pytest.fixture(scope="module")
def scans(work: Path) -> dict[str, Path]:
    """One synthetic scan of each modality, and a real head in two orientations."""
    found = {}
    for name, pattern in (
        ("t1", "*T1w.nii.gz"),
        ("flair", "*FLAIR.nii.gz"),
        ("amyloid", "*18FFBB*"),
        ("tau", "*AV1451*"),
    ):
        images = sorted(p for p in (work / "data").rglob(pattern) if p.name.endswith(".nii.gz"))
        if images:
            found[name] = images[0]
    other = work / "turned.nii.gz"
    nib.save(turned(nib.load(TEMPLATE), (2, 0, 1), (-1, 1, -1)), other)
    return found | {"head": TEMPLATE, "turned": other}


def points(output: str) -> float:
    return float(re.search(r"predicted change in CDR-SB ([+-]\d+\.\d+) points", output).group(1))  # type: ignore[union-attr]


def test_training_leaves_a_model_and_every_combination_s_figures(work: Path) -> None:
    assert {p.name for p in (work / "run").iterdir()} >= {
        "model",
        "last",
        "learning.csv",
        "results.csv",
        "quarantine.csv",
    }
    assert len((work / "run" / "results.csv").read_text().splitlines()) == 1 + 15 * 3


def test_evaluate_repeats_the_figures_of_training(work: Path, permmoe: Command, tmp_path: Path) -> None:
    out = tmp_path / "again.csv"
    status, shown, _ = permmoe("evaluate", work / "run" / "model", work / "data" / "manifest.csv", "--out", out)
    assert status == 0
    assert "All test visits" in shown and "t1+flair+amyloid+tau" in shown
    assert out.read_text() == (work / "run" / "results.csv").read_text()
    status, shown, _ = permmoe("evaluate", work / "run" / "model", work / "data" / "manifest.csv", "--part", "train")
    assert status == 0 and "All train visits" in shown


def test_any_modalities_of_one_patient_give_a_prediction_that_names_the_imputed(
    work: Path, scans: dict[str, Path], permmoe: Command
) -> None:
    names = ("t1", "flair", "amyloid", "tau")
    for given in ({"flair"}, {"t1", "flair"}, {n for n in names if n in scans}):
        images = [part for name in sorted(given) for part in ("--image", f"{name}={scans[name]}")]
        status, shown, _ = permmoe("predict", work / "run" / "model", *images, "--baseline-cdrsb", "1.5")
        assert status == 0
        assert np.isfinite(points(shown))
        imputed = ", ".join(n for n in names if n not in given) or "none"
        assert f"from {', '.join(n for n in names if n in given)}; missing: {imputed}" in shown
        assert RESEARCH_NOTICE in shown


def test_a_real_head_is_predicted_alike_in_two_orientations(
    work: Path, scans: dict[str, Path], permmoe: Command
) -> None:
    predictions = []
    for name in ("head", "turned"):
        status, shown, _ = permmoe(
            "predict", work / "run" / "model", "--image", f"t1={scans[name]}", "--baseline-cdrsb", "2", "--json"
        )
        assert status == 0
        answer = json.loads(shown)
        assert answer["notice"] == RESEARCH_NOTICE
        assert answer["predictions"][0]["used"] == ["t1"]
        assert answer["predictions"][0]["imputed"] == ["flair", "amyloid", "tau"]
        predictions.append(answer["predictions"][0]["delta_cdrsb"])
    assert predictions[0] == pytest.approx(predictions[1], abs=0.02)


def test_predictions_of_a_model_of_invented_patients_say_so(
    work: Path, scans: dict[str, Path], permmoe: Command
) -> None:
    given = ("predict", work / "run" / "model", "--image", f"t1={scans['t1']}", "--baseline-cdrsb", "1.5")
    assert "SYNTHETIC" in permmoe(*given)[1]
    assert json.loads(permmoe(*given, "--json")[1])["is_synthetic"] is True


def test_a_model_whose_card_does_not_say_what_is_usual_compares_nothing_and_says_so(
    work: Path, scans: dict[str, Path], permmoe: Command
) -> None:
    given = ("predict", work / "run" / "model", "--image", f"t1={scans['t1']}", "--baseline-cdrsb", "1.5")
    assert "t1: the model's card does not say what is usual" in permmoe(*given)[2]


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on enough T1 images to tell what is usual among them, and a blurred image and a FLAIR."""
    folder = tmp_path_factory.mktemp("larger")
    grid = VolumeGrid(shape=(24, 28, 24), spacing_mm=8.0)
    write_cohort(folder / "data", CohortConfig(subjects=90, sites=2, grid=grid, follow_up_months=36), workers=1)
    (folder / "run.yaml").write_text(RUN.replace("[12, 14, 12], spacing_mm: 16.0", "[24, 28, 24], spacing_mm: 8.0"))
    train_in(folder)
    image = nib.load(next((folder / "data").rglob("*T1w.nii.gz")))
    voxels = image.get_fdata(dtype=np.float32)
    for name, changed in (
        ("moved", np.roll(voxels, 2, axis=1)),
        ("mask", ndimage.uniform_filter((voxels > 0).astype(np.float32), 2)),
    ):
        nib.save(nib.Nifti1Image(changed, image.affine, image.header), folder / f"{name}.nii.gz")
    return folder


def test_an_image_unlike_the_trainings_is_warned_of_and_one_of_another_kind_refused(
    larger: Path, permmoe: Command
) -> None:
    def of(image: Path, *options: str) -> tuple[int, str, str]:
        given = ("predict", larger / "run" / "model", "--image", f"t1={image}", "--baseline-cdrsb", "1.5")
        return permmoe(*given, *options)

    status, shown, said = of(next((larger / "data").rglob("*T1w.nii.gz")))
    assert status == 0 and said == "" and "unlike" not in shown
    status, shown, said = of(larger / "moved.nii.gz")
    assert status == 0 and "warning: patient: t1 is unlike the training's images" in said
    assert "unlike the training's images: t1" in shown
    assert json.loads(of(larger / "moved.nii.gz", "--json")[1])["predictions"][0]["unlike_training"] == ["t1"]
    status, shown, said = of(larger / "mask.nii.gz")
    assert status == 2 and "t1: image of another kind than the training's" in said and "nothing to predict" in said


def test_training_says_how_many_images_are_unlike_the_rest(larger: Path) -> None:
    lines = (larger / "run" / "unlike.csv").read_text().splitlines()
    assert lines[0] == "subject_id,modality,file" and len(lines) < 6


@pytest.mark.parametrize("command", ["predict", "train", "evaluate", "inspect"])
def test_a_manifest_without_a_visit_ends_in_a_sentence(
    command: str, work: Path, permmoe: Command, tmp_path: Path
) -> None:
    empty = tmp_path / "manifest.csv"
    empty.write_text((work / "data" / "manifest.csv").read_text().splitlines()[0] + "\n")
    model = work / "run" / "model"
    status, _, said = permmoe(
        *{
            "predict": ("predict", model, "--manifest", empty),
            "train": ("train", empty, "--out", tmp_path / "run", "--config", work / "run.yaml"),
            "evaluate": ("evaluate", model, empty),
            "inspect": ("data", "inspect", empty),
        }[command]
    )
    assert status == 2 and "Traceback" not in said
    assert re.search(r"has no( usable)? visit", said)


def test_manifest_gives_one_prediction_a_visit(work: Path, permmoe: Command) -> None:
    manifest = work / "data" / "manifest.csv"
    status, shown, _ = permmoe("predict", work / "run" / "model", "--manifest", manifest, "--json")
    assert status == 0
    subjects = [line.split(",")[0] for line in manifest.read_text().splitlines()[1:]]
    assert [p["subject_id"] for p in json.loads(shown)["predictions"]] == subjects


MISTAKES = [
    ("train {data}/absent.csv --out {new}", "no manifest at"),
    ("train {data}/manifest.csv --out {new} --config {data}/absent.yaml", "no configuration file at"),
    ("train {data}/manifest.csv --out {new} --config {scan}", "is not valid YAML"),
    ("train {data}/manifest.csv --out {new} --device tpu9", "is not a device"),
    ("train {data}/manifest.csv --out {data}/manifest.csv --config {work}/run.yaml", "manifest.csv: "),
    ("train {scan} --out {new}", "is not a CSV file"),
    ("train {lacking} --out {new}", "lacks 1 column(s)"),
    ("evaluate {work} {data}/manifest.csv", "no checkpoint in"),
    ("evaluate {data}/manifest.csv {data}/manifest.csv", "cannot be read"),
    ("evaluate {work}/run/last {data}/manifest.csv", "name a run's folder 'model'"),
    ("evaluate {work}/run/model {data}/manifest.csv --part tests", "Invalid value"),
    ("predict {work}/run/model --image t1={scan}", "give --baseline-cdrsb"),
    ("predict {work}/run/model --image t1={scan} --baseline-cdrsb nan", "--baseline-cdrsb"),
    ("predict {work}/run/model --image t1={scan} --baseline-cdrsb 19", "baseline-cdrsb"),
    ("predict {work}/run/model --baseline-cdrsb 1", "give at least one input"),
    ("predict {work}/run/model --image flare={scan} --baseline-cdrsb 1", "did you mean 'flair'?"),
    ("predict {work}/run/model --image {scan} --baseline-cdrsb 1", "expected NAME="),
    ("predict {work}/run/model --image t1={data}/absent.nii --baseline-cdrsb 1", "there is no file"),
    ("predict {work}/run/model --image t1={scan} --image t1={scan} --baseline-cdrsb 1", "is given twice"),
    ("predict {work}/run/model --image t1={data}/manifest.csv --baseline-cdrsb 1", "no input could be used"),
    ("predict {work}/run/model --image t1={broken} --baseline-cdrsb 1", "no input could be used"),
    ("predict {work}/run/model --manifest {data}/manifest.csv --baseline-cdrsb 1", "not both"),
    ("trian", "No such command"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistake_ends_with_a_message_and_status_2(
    work: Path, scans: dict[str, Path], permmoe: Command, tmp_path: Path, arguments: str, message: str
) -> None:
    header, *rows = (work / "data" / "manifest.csv").read_text().splitlines()
    lacking, broken = tmp_path / "lacking.csv", tmp_path / "broken.nii.gz"
    lacking.write_text("\n".join([header.replace("baseline_cdrsb", "baseline_cdr_sb"), *rows]))
    content = scans["t1"].read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    places = {
        "work": work, "data": work / "data", "scan": scans["t1"], "new": tmp_path / "new", "lacking": lacking,
        "broken": broken,
    }  # fmt: skip
    status, shown, complaint = permmoe(*(part.format(**places) for part in arguments.split()))
    assert status == 2
    assert message in complaint
    assert "Traceback" not in complaint and "predicted change" not in shown
    assert not (tmp_path / "new" / "model").exists()


def test_broken_scan_beside_a_whole_one_is_named_and_left_out(
    work: Path, scans: dict[str, Path], permmoe: Command, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    shutil.copy(work / "run.yaml", broken)
    status, shown, complaint = permmoe(
        "predict", work / "run" / "model", "--image", f"t1={scans['t1']}", "--image", f"flair={broken}",
        "--baseline-cdrsb", "1",
    )  # fmt: skip
    assert status == 0
    assert "not used: flair: " in complaint
    assert "from t1; missing: flair, amyloid, tau" in shown


def test_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    program = "from permmoe.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "evaluate", str(tmp_path), "absent.csv"], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: no checkpoint in")
    assert "Traceback" not in ended.stderr and ended.stdout == ""


def test_interruption_says_that_the_same_command_goes_on(
    permmoe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "train_run", interrupted)
    status, _, complaint = permmoe("train", tmp_path / "manifest.csv", "--out", tmp_path / "run")
    assert status == 130
    assert "the same command goes on where it stopped" in complaint
    with pytest.raises(SystemExit) as end:
        run(interrupted)
    assert end.value.code == 130


def test_programmer_s_error_keeps_its_traceback() -> None:
    def wrong() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run(wrong)


@pytest.mark.parametrize(
    "program",
    [
        "permmoe_client.cli",
        "permmoe_client.site",
        "permmoe_server.cli",
        "permmoe_server.coordination.coordinator",
        "permmoe_server.coordination.superlink",
        "permmoe_server.gateway.process",
    ],
)
def test_a_program_that_holds_no_model_does_without_pytorch(program: str) -> None:
    """It would take two seconds and 200 MB of each."""
    look = f"import sys, {program}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, check=True, text=True).stdout
    assert answer.strip() == "False"
