"""A measurement runs in a process of its own, and says how to repeat it where it fails."""

from __future__ import annotations

import os

import pytest

from permmoe.errors import ConfigurationError
from permmoe_benchmarks.library.own_process import Measurement, measure
from permmoe_benchmarks.measurements.epoch_scaling import epoch
from permmoe_benchmarks.measurements.message_bytes import site_bytes


def test_an_address_names_module_and_function() -> None:
    assert Measurement(epoch).address == "epoch_scaling:epoch"


def test_a_measurement_takes_further_arguments_and_stays_as_it_was() -> None:
    side = Measurement(site_bytes, {"wire": "fp16"})
    assert side.given(scale="quick").arguments == {"wire": "fp16", "scale": "quick"}
    assert side.arguments == {"wire": "fp16"}


def test_a_fresh_process_answers_with_figures_and_leaves_this_one_alone() -> None:
    threads = os.environ.get("MKL_NUM_THREADS")
    found = measure(Measurement(epoch, {"patients": 3}, is_fresh=True))
    assert found["rows_mb"] > 0 and found["seconds"] > 0
    assert os.environ.get("MKL_NUM_THREADS") == threads


def test_a_failure_names_the_command_that_repeats_it() -> None:
    with pytest.raises(
        ConfigurationError, match=r"python benchmarks/measure.py epoch_scaling:epoch '\{\"patients\": 0\}'"
    ):
        measure(Measurement(epoch, {"patients": 0}, is_fresh=True))
