"""Pages of freed tensors are used again, without the kernel, where glibc can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from permmoe.runtime.memory_pages import keep_freed_pages

FAULTS = """
import resource, sys
import torch
from permmoe.runtime.memory_pages import keep_freed_pages

without_limit = sys.argv[1] == "large"

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(11):
        [torch.ones(16 << 20)] if without_limit else [torch.ones(1 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back, is_glibc = faults(), keep_freed_pages(without_limit=without_limit)
faults(), faults()
print(is_glibc, given_back, faults())
"""


@pytest.mark.parametrize("size", ["small", "large"])
def test_tensors_freed_and_made_again_take_no_new_pages(size: str) -> None:
    command = [sys.executable, "-c", FAULTS, size]
    answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    if answer[0] == "False":
        pytest.skip("no glibc")
    given_back, kept = map(int, answer[1:])
    assert given_back > 1000
    assert kept < given_back / 20


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def load(name: str | None) -> object:
        if error is AttributeError:
            return object()
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert keep_freed_pages() is False
