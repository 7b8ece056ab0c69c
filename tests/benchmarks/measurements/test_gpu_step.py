"""Without a GPU the GPU benchmark measures nothing."""

from __future__ import annotations

import sys

import pytest
import torch

from permmoe_benchmarks.measurements import gpu_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_gpu_benchmark_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu_step.main()
    assert capsys.readouterr().out == "no GPU\n"
