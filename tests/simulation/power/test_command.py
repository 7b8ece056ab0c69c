"""`python simulation/power.py` from its file to its page, on a few planted patients and two rounds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from permmoe_simulation.power.cli import main
from tests.simulation.power.test_plan import KNOWN_TRUTH

pytestmark = pytest.mark.xdist_group("study")
QUICK = {"train": {"epochs": 1, "warmup_epochs": 0}, "model": {"width": 8, "heads": 2, "experts": 3, "top_k": 2},
         "federation": {"rounds": 1, "local_epochs": 1, "evaluate_every": 0, "min_cell_count": 1}}  # fmt: skip
Run = Callable[..., tuple[object, str]]


def write_plan(folder: Path, **changes: Any) -> Path:
    """Claims that need no training but the federation's, which is trained twice."""
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies" / "known-truth.yaml").write_text(yaml.safe_dump(KNOWN_TRUTH.model_dump(mode="json")))
    claims = [{"method": "federated", "reference": "training-mean"},
              {"method": "kernel-ridge", "reference": "training-mean", "combination": "t1"}]  # fmt: skip
    plan = {"name": "tiny", "description": "Few planted patients.", "study": "studies/known-truth.yaml",
            "settings": QUICK, "regimes": ["linear"], "claims": claims, "cohorts": 2,
            "grid": [{"patients": [40], "sites": [2]}], **changes}  # fmt: skip
    (folder / "power.yaml").write_text(yaml.safe_dump(plan))
    return folder / "power.yaml"


def run_command(monkeypatch: pytest.MonkeyPatch, plan: Path, out: Path, *options: str) -> object:
    monkeypatch.setattr(sys, "argv", ["power.py", str(plan), "--out", str(out), "--workers", "1", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def cards(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("studies/*/cells/*/card.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The plan of one cohort, and the folder of its run."""
    folder = tmp_path_factory.mktemp("power")
    plan, out = write_plan(folder, cohorts=1), folder / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_command(monkeypatch, plan, out) == 0
    return plan, out


def test_a_run_leaves_a_row_for_every_claim_and_for_the_second_training_and_a_page_with_its_curves(
    finished: tuple[Path, Path],
) -> None:
    _, out = finished
    power = pd.read_csv(out / "power.csv")
    assert power[["method", "reference", "combination", "truth"]].apply(tuple, axis=1).tolist() == [
        ("federated", "training-mean", "mean", "lower"),
        ("kernel-ridge", "training-mean", "t1", "lower"),
        ("federated", "federated+again", "mean", "no difference"),
    ]
    assert (power["cohorts"] == 1).all() and (power["not_judged"] == 0).all()
    page = (out / "power.md").read_text()
    assert "SYNTHETIC DATA" in page and "](power.svg)" in page
    assert f"`python simulation/power.py {finished[0]}`" in page, "without folders of results, and cells at a time"
    assert "2 tests (2 claims, 1 regime)" in page
    svg = (out / "power.svg").read_text()
    assert svg.startswith("<svg xmlns=") and "synthetic data" in svg and "2 hospitals" in svg


def test_verdicts_are_those_of_the_cohort_s_own_report(finished: tuple[Path, Path]) -> None:
    _, out = finished
    [folder] = out.glob("studies/*")
    own = pd.read_csv(folder / "comparisons.csv")
    assert set(own.loc[own["combination"].isin(["mean"]) & (own["method"] == "federated"), "family"]) == {"claims"}
    said = pd.read_csv(out / "verdicts.csv").set_index(["method", "reference"])
    for method, reference, combination in (("federated", "training-mean", "mean"),
                                           ("kernel-ridge", "training-mean", "t1")):  # fmt: skip
        is_it = (own["method"] == method) & (own["reference"] == reference) & (own["combination"] == combination)
        [row] = own[is_it].to_dict("records")
        found = said.loc[(method, reference)]
        assert (found["difference"], found["p_holm"], found["seeds"]) == (row["difference"], row["p_holm"], 5)
        side = "lower" if row["difference"] < 0 else "higher"
        assert found["verdict"] == (side if row["p_holm"] < 0.05 else "not told")


def test_a_run_that_goes_on_trains_only_what_is_missing(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between two cells, and with a cohort more than before."""
    plan, out = finished
    before = cards(out)
    lost = sorted(before)[0]
    [card] = out.glob(f"studies/*/cells/{lost}/card.json")
    card.unlink()
    more = write_plan(plan.parent, cohorts=2)
    assert run_command(monkeypatch, more, out) == 0
    after = cards(out)
    assert {name: after[name] for name in before if name != lost} == {n: t for n, t in before.items() if n != lost}
    assert after[lost] > before[lost] and len(after) == 2 * len(before)
    assert (pd.read_csv(out / "power.csv")["cohorts"] == 2).all()


def test_studies_are_listed_without_running_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, write_plan(tmp_path), tmp_path / "out", "--list") == 0
    shown = capsys.readouterr().out
    assert "known-truth-40-patients-2-sites-501" in shown and "2 studies, 40 cells" in shown
    assert not (tmp_path / "out").exists()


def test_a_plan_of_too_few_seeds_ends_with_the_reason_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tmp_path, settings={**QUICK, "seeds": [0, 1, 2]})
    assert run_command(monkeypatch, plan, tmp_path / "out") == 2
    assert "nothing would be judged" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_device_that_is_none_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, write_plan(tmp_path), tmp_path / "out", "--device", "abacus") == 2
    assert "'abacus' is not a device for studies" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/studies/*/cells/*"))
