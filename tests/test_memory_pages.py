"""Pages of freed tensors are used again, without the kernel, where glibc can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from model_batches import small_config
from small_visits import small_visits

import permmoe.trainer as trainer
from permmoe.config import EncoderConfig, TrainConfig, VolumeGrid
from permmoe.memory_pages import keep_freed_pages
from permmoe.trainer import make_model, train_epochs

FAULTS = """
import resource, sys
import torch
from permmoe.memory_pages import keep_freed_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(11):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back, is_glibc = faults(), keep_freed_pages()
faults(), faults()
print(is_glibc, given_back, faults())
"""


def test_a_tensor_freed_and_made_again_takes_no_new_pages() -> None:
    answer = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True).stdout.split()
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
    assert keep_freed_pages.__wrapped__() is False


@pytest.mark.parametrize(("kind", "expected"), [("pooled", 0), ("sfcn_lite", 1)])
def test_only_convolutional_training_keeps_its_pages(monkeypatch: pytest.MonkeyPatch, kind: str, expected: int) -> None:
    calls: list[None] = []
    monkeypatch.setattr(trainer, "keep_freed_pages", lambda: calls.append(None))
    encoder = EncoderConfig.model_validate({"kind": kind, "cells": (2, 3, 5)})
    config = small_config(2, encoder=encoder, grid=VolumeGrid(shape=(8, 9, 7)))
    train_epochs(make_model(config, 0), small_visits(config, 5), TrainConfig(), first_epoch=0, epochs=1, seed=0)
    assert len(calls) == expected
