"""What a page with reasons costs beside its prediction, for a synthetic patient with all four scans.

    python benchmarks/prediction_page.py [--turns 5] [--folder runs/benchmark-prediction-page]

`permmoe predict` runs in turns with and without `--report`, each time as a process of its own, so that imports count.
Prints the medians over turns of what the page adds: seconds by the clock, and seconds of processor time, which a shared
machine does not lengthen.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from permmoe.config import RunConfig, read_config
from permmoe.data.adni import adni_visits
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.manifest import write_manifest
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import Visit
from permmoe.runs import train_run
from permmoe_benchmarks.library.scale import ROOT

SUBJECTS = 40
COMMAND = "from permmoe.cli import main; main()"


def main() -> None:
    """Write a cohort and train a model once, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-prediction-page"))
    given = parser.parse_args()
    patient = _prepared(given.folder)
    command = [sys.executable, "-c", COMMAND, "predict", str(given.folder / "run" / "model"), "--baseline", "1.5"]
    command += [part for name, file in patient.volumes.items() for part in ("--image", f"{name}={file}")]
    page = given.folder / "page.html"
    wall, processor = [], []
    for _ in range(given.turns):
        plain, reported = _seconds(command), _seconds([*command, "--report", str(page)])
        wall.append(reported[0] - plain[0])
        processor.append(reported[1] - plain[1])
    print(
        f"a page of {len(patient.volumes)} scans adds {median(wall):.1f} s ({min(wall):.1f} to {max(wall):.1f}) to a "
        f"prediction, {median(processor):.1f} s of processor time ({min(processor):.1f} to {max(processor):.1f}); "
        f"{given.turns} turns, {page.stat().st_size / 1e3:.0f} kB"
    )


def _prepared(folder: Path) -> Visit:
    """A patient with all scans of the synthetic cohort that a model was trained on, with a ridge."""
    settings = read_config(ROOT / "configs" / "models" / "ridge-permmoe.yaml", RunConfig)
    modalities = settings.model.modalities
    if not (folder / "cohort").exists():
        write_cohort(folder / "cohort", CohortConfig(subjects=SUBJECTS, seed=10))
    visits, _ = adni_visits(folder / "cohort" / "clinical", folder / "cohort", TargetRule(), modalities)
    visits = visits.where(lambda visit: visit.delta_cdrsb is not None)
    if not (folder / "run" / "model").exists():
        write_manifest(visits, folder / "manifest.csv", modalities)
        quick = settings.train.model_copy(update={"epochs": 4})
        settings = settings.model_copy(update={"train": quick})
        train_run(folder / "manifest.csv", folder / "run", settings, cache=folder / "volumes")
    return max(visits, key=lambda visit: len(visit.volumes))


def _seconds(command: list[str]) -> tuple[float, float]:
    """Seconds of a process by the clock, and of processor time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    return ended - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
