"""How many cells of a study a device finishes in an hour, by the command that a researcher would call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from permmoe.errors import ConfigurationError
from permmoe_benchmarks.library.scale import ROOT
from permmoe_benchmarks.library.timing import Figures
from permmoe_benchmarks.measurements.study_throughput import METHOD, small_study

SCRIPT = ROOT / "simulation" / "run.py"


def cells_an_hour(device: str, cells: int, subjects: int, rounds: int, workers: int) -> Figures:
    """Return the rate at which `simulation/run.py` finishes cells of the default study's federated method.

    The cohort's preparation and the report are left out. Raises ConfigurationError where the study fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        # JSON is YAML too.
        study.write_text(small_study(cells, subjects, rounds).model_dump_json())
        command = [sys.executable, str(SCRIPT), str(study), "--only", f"{METHOD}/*", "--device", device]
        command += ["--workers", str(workers), "--out", str(Path(folder) / "out")]
        done = subprocess.run(
            [*command, "--shared", str(Path(folder) / "shared")],
            capture_output=True, text=True, check=False, env=_environment(),
        )  # fmt: skip
        if done.returncode:
            raise ConfigurationError(f"the study failed on {device}: {(done.stdout + done.stderr).strip()[-400:]}")
        cards = sorted((Path(folder) / "out" / "cells").glob("*/card.json"), key=lambda path: path.stat().st_mtime)
        finished = [path.stat().st_mtime for path in cards]
        started = finished[0] - float(json.loads(cards[0].read_text())["seconds"])
        trained_on = sorted({str(json.loads(path.read_text())["device"]) for path in cards})
    return {
        "cells_an_hour": 3600 * len(finished) / (finished[-1] - started), "cells": len(finished), "workers": workers,
        "device": ", ".join(trained_on), "rounds": rounds, "subjects": subjects,
    }  # fmt: skip


def _environment() -> dict[str, str]:
    """This process's, in which this checkout is found, with one thread a worker."""
    path = os.pathsep.join([str(ROOT / part) for part in (".", "server", "client", "simulation")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
