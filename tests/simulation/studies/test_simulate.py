"""`python simulation/run.py` from a study's file to its report, as a person runs it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.data.manifest import write_manifest
from permmoe.errors import DataError
from permmoe_simulation.cli import main
from permmoe_simulation.report import SECTIONS
from permmoe_simulation.report.section import tables_of
from permmoe_simulation.studies.cell_files import read_predictions
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import StudyConfig
from tests.support.patience import wait_until
from tests.support.tiny_study import METHODS, QUIET, ROOT, command, environment, run, settings, write_settings

pytestmark = pytest.mark.xdist_group("study")
TABLES = ("results.csv", "comparisons.csv", "learning.csv", "activation.csv", "routing.csv", "sites.csv")
Run = Callable[..., tuple[object, str]]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("study") / "tiny.yaml")


@pytest.fixture(scope="session")
def finished(study: Path) -> Path:
    """The study's folder after an undisturbed run."""
    out = study.parent / "undisturbed"
    ended = run(study, out)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "tiny: synthetic data; 0 cell(s) failed" in ended.stdout
    return out


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, which has its libraries loaded already: its status and what it printed."""

    def run_command(study: Path, out: Path, *options: str) -> tuple[object, str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", command(study, out, *options)[1:])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().out

    return run_command


def cards(out: Path) -> dict[str, int]:
    """When each finished cell's card was written, ns."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cells/*/card.json")}


def copied(finished: Path, name: str) -> Path:
    """A finished study for a test of its own, times of files included."""
    return Path(shutil.copytree(finished, finished.with_name(name)))


def assert_same_figures(a: Path, b: Path) -> None:
    for name in TABLES:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert cards(a).keys() == cards(b).keys()
    for cell in cards(a):
        pd.testing.assert_frame_equal(
            read_predictions(a / "cells" / cell), read_predictions(b / "cells" / cell), check_exact=True
        )


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


OF_SOME_STUDIES = (
    "gaps", "along_axis", "trends", "again", "ladder", "ladder_columns", "newcomers", "forgetting", "over_cohorts"
)  # fmt: skip
"""Tables of studies that name a gap, an axis, a ladder, cohorts, new hospitals or whom to forget, or have seeds that a
judgement needs."""


def test_every_promised_table_is_there_with_its_columns(finished: Path) -> None:
    for table in tables_of(SECTIONS):
        if table.name in OF_SOME_STUDIES:
            continue
        columns = set(pd.read_csv(finished / table.file_name, nrows=1).columns)
        modalities = {"t1", "flair", "amyloid", "tau"} if table.has_modality_columns else set()
        optional = {column.name for column in table.columns if column.may_be_absent}
        assert columns - optional == {column.name for column in table.columns} - optional | modalities, table.name
    results = pd.read_csv(finished / "results.csv", keep_default_na=False, na_values=[""])
    assert len(results) == len(METHODS) * 3 * 15 * 3
    assert results.loc[results.n == 0, ["rmse", "mae", "lower", "upper"]].isna().all(axis=None)
    assert results.loc[results.n > 0, "rmse"].notna().all()


def test_rounds_have_a_row_for_each_round_and_site_of_each_federation(finished: Path) -> None:
    rounds = pd.read_csv(finished / "rounds.csv", dtype={"site": str})
    sites = pd.read_csv(finished / "sites.csv", dtype=str).site
    assert len(rounds) == 2 * 3 * len(sites) and set(rounds.site) == set(sites)
    assert (rounds[["bytes_down", "bytes_up", "modules"]] > 0).all(axis=None)


def test_the_report_says_synthetic_and_shows_the_cohort(finished: Path) -> None:
    assert 'class="synthetic"' in (finished / "report.html").read_text()
    assert json.loads((finished / "summary.json").read_text())["synthetic"] is True
    assert (finished / "slices.npz").exists()


def test_a_killed_study_goes_on_and_ends_as_an_undisturbed_one_even_by_two_processes_at_once(
    study: Path, finished: Path
) -> None:
    out = study.parent / "killed"
    process = subprocess.Popen(command(study, out), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    wait_until("a cell is finished", lambda: cards(out))
    workers = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = cards(out)
    assert len(before) < len(cards(finished))
    wait_until("its workers have ended as well", lambda: not any(map(is_running, workers)))
    both = [
        subprocess.Popen(command(study, out), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert before.items() <= cards(out).items()
    assert not list(out.glob("cells/*.unfinished"))
    assert_same_figures(finished, out)


def test_a_process_waits_and_says_so_while_another_is_at_work_in_its_folder(study: Path, finished: Path) -> None:
    out = copied(finished, "held")
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        report = (out / "report.html").stat().st_mtime_ns
        second = subprocess.Popen(command(study, out), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        while "another process is at work" not in second.stdout.readline():
            assert second.poll() is None
        assert (out / "report.html").stat().st_mtime_ns == report
    second.communicate()
    assert second.returncode == 0
    assert (out / "report.html").stat().st_mtime_ns > report


def test_cohorts_may_lie_in_the_folder_of_the_results(study: Path, finished: Path, run_here: Run) -> None:
    out = study.parent / "one"
    only = "clinical-null/site/0"
    assert run_here(study, out, "--shared", str(out), "--only", only)[0] == 0
    assert len(cards(out)) == 1 and cards(out).keys() <= cards(finished).keys()


def test_a_tracked_study_has_a_run_for_each_cell_and_one_of_its_results_and_the_same_tables(
    study: Path, finished: Path, run_here: Run
) -> None:
    pytest.importorskip("tensorboard")
    out, board = copied(finished, "tracked"), study.parent / "board"
    assert run_here(study, out, "--track", f"tensorboard:{board}")[0] == 0
    runs = {folder.name.rsplit(" ", 1)[0] for folder in (board / "tiny").iterdir()}
    assert {"federated site seed 0", "clinical-null site seed 1", "results"} <= runs and len(runs) >= 2 * len(METHODS)
    assert_same_figures(out, finished)
    subjects = set(np.load(next((finished / "cells").glob("*/predictions.npz")))["subject"].tolist())
    kept = b"".join(path.read_bytes() for path in board.rglob("*tfevents*"))
    assert subjects and not any(subject.encode() in kept for subject in subjects)


def test_a_failing_cell_is_itemised_and_the_rest_finishes(study: Path, finished: Path, run_here: Run) -> None:
    # Six layers of pooling leave nothing of so coarse a grid, which shows only when the model is made.
    broken = {"kind": "centralised", "label": "b", "model": {"encoder": {"kind": "cnn"}}}
    path = write_settings(study.parent / "failing.yaml", methods={**METHODS, "broken": broken})
    out, before = copied(finished, "failing"), cards(finished)
    code, told = run_here(path, out)
    assert code == 1, told
    assert "failed: broken, site, seed 0" in told and "2 cell(s) failed" in told
    failed = json.loads((out / "summary.json").read_text())["failed_cells"]
    assert [line.split(":")[0] for line in failed] == ["broken, site, seed 0", "broken, site, seed 1"]
    assert cards(out) == before


def test_seeds_of_the_command_line_replace_those_of_the_study_and_finished_cells_need_no_worker(
    study: Path, finished: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *args: pytest.fail("a worker was asked for"))
    out, before = copied(finished, "seeds"), cards(finished)
    assert run_here(study, out, "--seeds", "1")[0] == 0
    seeds = pd.read_csv(out / "results.csv", dtype=str, keep_default_na=False).seed
    assert set(seeds) == {"1", "all"} and cards(out) == before


def test_a_study_of_a_manifest_is_not_called_synthetic_and_shows_no_image(
    study: Path, finished: Path, run_here: Run
) -> None:
    made = parse_config(settings(), StudyConfig, "study")
    visits = prepare_data(made.data, made.model, finished, 1, QUIET).visits
    write_manifest(visits, finished / "manifest.csv", made.model.modalities)
    path = write_settings(
        study.parent / "manifest.yaml",
        data={"manifest": str(finished / "manifest.csv")},
        description="Visits of a manifest.",
        methods={name: METHODS[name] for name in ("clinical-null",)},
        comparisons=[],
        claims=[],
    )
    out = study.parent / "manifest"
    code, told = run_here(path, out)
    assert code == 0, told
    assert "synthetic" not in told.lower()
    assert json.loads((out / "summary.json").read_text())["synthetic"] is False
    assert not (out / "slices.npz").exists()
    assert 'class="synthetic"' not in (out / "report.html").read_text()
    a, b = (pd.read_csv(folder / "results.csv").query("method == 'clinical-null'") for folder in (finished, out))
    assert list(a.rmse) == pytest.approx(list(b.rmse), nan_ok=True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, (), "no configuration file"),
        ("name: [", (), "not valid YAML"),
        ("nam: x", (), "did you mean 'name'"),
        ("", ("--engine", "rya"), "'rya' is not one of"),
        ("", ("--seeds", "a,b"), "whole numbers"),
        ("", ("--seeds", "1,1"), "twice"),
        ("", ("--workers", "0"), "--workers"),
    ],
)
def test_a_persons_mistake_ends_with_status_2_and_no_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    options: tuple[str, ...],
    message: str,
) -> None:
    path = tmp_path / "study.yaml"
    if text == "":
        write_settings(path)
    elif text is not None:
        path.write_text(text)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", command(path, tmp_path / "out", *options)[1:])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in " ".join(told.split()) and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_manifest_without_a_usable_visit_says_what_next(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,t1,flair,amyloid,tau\na,011,bl,1.5,,24,,,,\n"
    )
    made = parse_config(settings(data={"manifest": str(tmp_path / "m.csv")}), StudyConfig, "study")
    with pytest.raises(DataError, match="permmoe data inspect"):
        prepare_data(made.data, made.model, tmp_path, 1, QUIET)
