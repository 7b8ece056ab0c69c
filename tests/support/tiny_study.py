"""A synthetic study that takes seconds, and the command that a person would type to run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from permmoe_simulation.studies.progress import Progress

ROOT = Path(__file__).parents[2]
QUIET = Progress(lambda name, steps: None, lambda what: None, lambda text: None)
SHAPE = {"shape": [12, 14, 12], "spacing_mm": 16.0}
METHODS: dict[str, dict[str, Any]] = {
    "federated": {"kind": "federated", "label": "federated PerM-MoE"},
    "local": {"kind": "local", "label": "local only"},
    "centralised": {"kind": "centralised", "label": "centralised"},
    "clinical-null": {"kind": "reference", "label": "clinical null", "baseline": "clinical_null"},
}


def settings(**changes: Any) -> dict[str, Any]:
    """Sixty synthetic subjects at eight sites, four methods, two seeds, three rounds."""
    return {
        "name": "tiny",
        "description": "Synthetic subjects on a coarse grid.",
        "data": {"synthetic": {"subjects": 60, "follow_up_months": 36, "grid": SHAPE}},
        "model": {"grid": SHAPE, "encoder": {"cells": [6, 7, 6]}, "width": 8, "heads": 2, "experts": 5, "top_k": 2,
                  "expert_hidden": 7, "head_hidden": 11},
        "train": {"epochs": 3, "batch_size": 16, "warmup_epochs": 1},
        "federation": {"rounds": 3, "local_epochs": 1, "min_cell_count": 1},
        "seeds": [0, 1],
        "methods": METHODS,
        "comparisons": [["federated", "centralised"]],
        "claims": [{"method": "federated", "reference": "local"}],
        **changes,
    }  # fmt: skip


def write_settings(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(settings(**changes)))
    return path


def command(study: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "simulation/run.py", str(study), "--out", str(out), "--workers", "1", *options]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(study: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(study, out, *options), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
