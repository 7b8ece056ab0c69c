"""A measurement in a process of its own, on one thread, so that none inherits another's memory, caches or settings.

`python benchmarks/measure.py MODULE:FUNCTION ['{"argument": value}']` runs one by hand and prints its figures as JSON,
for example `python benchmarks/measure.py training_step:trainer_step '{"scale": "quick", "encoder": "pooled"}'`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join
from typing import Any

import torch

from permmoe.errors import ConfigurationError
from permmoe.runtime.workers import import_beforehand, worker_pool
from permmoe_benchmarks.library.scale import SCALES
from permmoe_benchmarks.library.timing import Figures

PACKAGE = "permmoe_benchmarks.measurements"
SCRIPT = Path(__file__).parents[2] / "measure.py"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measurement:
    """A function of a module of `permmoe_benchmarks.measurements`, and the arguments that it is called with."""

    function: Callable[..., Figures]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """As JSON has them; `scale` is the name of one of SCALES."""
    is_fresh: bool = False
    """True where memory is measured: its process has imported what the function's module imports, and no more."""

    @property
    def address(self) -> str:
        """MODULE:FUNCTION, as `measure.py` takes it."""
        return f"{self.function.__module__.removeprefix(f'{PACKAGE}.')}:{self.function.__name__}"

    def given(self, **arguments: Any) -> Measurement:
        """The same measurement with further arguments."""
        return Measurement(self.function, {**self.arguments, **arguments}, self.is_fresh)


def measure(measurement: Measurement) -> Figures:
    """Run a measurement in a process of its own. Raises ConfigurationError, with the command to repeat it, if it fails.

    Unless it is to be fresh, the process is forked from one that has imported all measurements and has computed
    nothing: importing takes seconds.
    """
    try:
        return _in_fresh_process(measurement) if measurement.is_fresh else _in_forked_process(measurement)
    except Exception as error:
        command = ["python", f"benchmarks/{SCRIPT.name}", measurement.address, json.dumps(measurement.arguments)]
        raise ConfigurationError(
            f"the measurement {measurement.address} failed ({error}); run `{join(command)}` by itself"
        ) from error


def measure_here(address: str, arguments: Mapping[str, Any]) -> Figures:
    """Run a measurement in this process, on one thread."""
    module, _, name = address.partition(":")
    function: Callable[..., Figures] = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    given = {key: SCALES[value] if key == "scale" else value for key, value in arguments.items()}
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    # Flower writes to standard output, which is for the answer.
    with contextlib.redirect_stdout(sys.stderr):
        return function(**given)


def _in_forked_process(measurement: Measurement) -> Figures:
    os.environ |= ONE_THREAD
    import_beforehand(f"{PACKAGE}.registry")
    with worker_pool(1, threads=1) as process:
        return process.submit(measure_here, measurement.address, dict(measurement.arguments)).result()


def _in_fresh_process(measurement: Measurement) -> Figures:
    command = [sys.executable, str(SCRIPT), measurement.address, json.dumps(measurement.arguments)]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:].strip() or f"exit status {done.returncode}")
    answer: Figures = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Run the measurement that the command line names and print its figures."""
    print(json.dumps(measure_here(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})))
