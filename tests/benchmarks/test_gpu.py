"""The command for a card: its page has a row for each encoder and way, failures and missing studies included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import permmoe_benchmarks.gpu as gpu
from permmoe.errors import DeviceUnusable
from permmoe_benchmarks.measurements.gpu_step import WAYS
from permmoe_benchmarks.pages.gpu import FIXED, HALF, STRICT, gpu_page

STEP = {"ms": 20.0, "least": 19.0, "most": 23.0, "busy_ms": 5.0, "gb": 3.0}
RESULT: dict[str, Any] = {
    "device": "Card X", "is_quick": False, "machine": "Linux", "versions": {"torch": "2", "numpy": "1"}, "seed": 0,
    "visits": 8, "grid": [91, 109, 91], "repeats": 12, "peaks": {"fp32": 50.0, "TF32": 400.0, "bf16": 800.0},
    "encoders": {
        "cnn": {
            "gflop": 4000.0, "deterministic": "same bits", "synchronisations": {"epochs.py:81": 1},
            "ways": {way.name: STEP | {"precision": way.precision} for way in WAYS} | {
                STRICT: STEP | {"ms": 800.0, "precision": "fp32"},
                FIXED: STEP | {"ms": 25.0, "precision": "bf16"},
                "TF32": {"failed": "does not fit into memory"},
            },
            "computed_memory": {"gb": 6.6, "visits_on_the_card": 27, "card_gb": 24.0},
        }
    },
    "study": {"cells_an_hour": 123.0, "cells": 32, "workers": 2, "device": "cuda", "rounds": 24, "subjects": 800},
}  # fmt: skip


def test_the_ways_that_others_are_compared_with_exist() -> None:
    assert {STRICT, HALF, FIXED} <= {way.name for way in WAYS}


def test_the_page_has_a_row_for_each_way_with_its_share_of_its_own_peak() -> None:
    page = gpu_page(RESULT)
    assert page.startswith("## Card X\n")
    assert "| cnn | fp32, strict | 800 | 1× | 10.0% | 5 ms (1%) | 3 GB |" in page
    assert "| cnn | bf16 | 20 | 40× | 25.0% | 5 ms (25%) | 3 GB |" in page
    assert "| cnn | TF32 | does not fit into memory | | | | |" in page
    assert "determinism takes 1.25× the time in bf16" in page
    assert "epochs.py:81 (1)" in page and "123 cells an hour" in page and "27 visits at once" in page
    assert "say nothing" not in page and "say nothing" in gpu_page(RESULT | {"is_quick": True})


def test_a_page_without_a_study_or_of_one_that_failed_says_so() -> None:
    assert "an hour" not in gpu_page(RESULT | {"study": {}})
    assert "no rate of a study: no such device" in gpu_page(RESULT | {"study": {"failed": "no such device"}})


def test_without_a_card_the_whole_command_runs_on_the_cpu_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "cells_an_hour", lambda device, **sizes: RESULT["study"] | sizes | {"device": device})
    out = tmp_path / "figures.json"
    with torch.compiler.set_stance("force_eager"):
        gpu.benchmark(encoders="pooled", visits=2, repeats=1, device="cpu", quick=True, study=True, workers=1, out=out)
    page = capsys.readouterr().out
    assert page.count("| pooled |") == len(WAYS) and "failed" not in page and "cells an hour" in page
    assert json.loads(out.read_text())["device"] == "CPU"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_card_and_without_being_told_to_the_command_says_so() -> None:
    with pytest.raises(DeviceUnusable, match=r"device cuda: .* mend that, or use cpu"):
        gpu.benchmark(study=False)
    with pytest.raises(ValueError, match="unknown encoder 'sfcm'"):
        gpu.benchmark(encoders="sfcm", device="cpu", study=False)
