"""How many cells of a study are finished in a minute, by the number of worker processes."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from permmoe_benchmarks.library.cohort import QUIET, default_study
from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.scale import SHARED
from permmoe_benchmarks.library.timing import Figures
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.simulate import RunOptions, run_study
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import StudyConfig, data_source

METHOD = "federated-permmoe"


def study_throughput(workers: int, cells: int, subjects: int, rounds: int) -> Figures:
    """Return the cells a minute of the default study's federated method, its cohort written beforehand."""
    config = small_study(cells, subjects, rounds)
    [regime] = config.regimes
    prepare_data(data_source(config, regime), config.model, SHARED, os.cpu_count() or 1, QUIET)
    stages: dict[str, float] = {}
    finished: list[float] = []

    def begin_stage(name: str, steps: int) -> None:
        stages[name] = time.perf_counter()

    def finish_step(step: str) -> None:
        # Beside the method's own cells each study has those of its clinical references, which take next to nothing.
        if "cells" in stages and step.startswith(METHOD):
            finished.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run_study(
            config,
            Path(folder),
            RunOptions(SHARED, workers=workers, command="benchmarks/scaling.py"),
            Progress(begin_stage, finish_step, lambda note: None),
        )
    assert len(finished) == cells
    seconds = finished[-1] - stages["cells"]
    return {"cells_a_minute": 60 * cells / seconds, "seconds": seconds}


def small_study(cells: int, subjects: int, rounds: int) -> StudyConfig:
    """The default study with one method, as many seeds as cells, and nothing to compare."""
    whole = default_study()
    small = whole.model_dump() | {
        "methods": {METHOD: whole.methods[METHOD].model_dump()}, "comparisons": (), "claims": (), "gap": None,
        "profiles": {}, "seeds": tuple(range(cells)),
    }  # fmt: skip
    small["data"]["synthetic"]["subjects"] = subjects
    small["federation"]["rounds"] = rounds
    return StudyConfig.model_validate(small)


CURVES = (
    Curve(
        "study-workers", "study", study_throughput, "workers", {"tiny": (1, 2), "quick": (1, 2), "full": (1, 2)},
        {
            "tiny": {"cells": 2, "subjects": 240, "rounds": 2},
            "quick": {"cells": 4, "subjects": 240, "rounds": 6},
            "full": {"cells": 8, "subjects": 800, "rounds": 24},
        },
    ),
)  # fmt: skip
