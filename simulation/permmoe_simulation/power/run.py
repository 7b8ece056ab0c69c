"""Run the studies of a power study, cohort by cohort, so that an interrupted one has whole curves of fewer cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from permmoe.runtime.devices import CPU
from permmoe_simulation.power.plan import Point, PowerConfig, study_at
from permmoe_simulation.power.verdicts import verdict_rows
from permmoe_simulation.report.again import AGAIN_SECTION
from permmoe_simulation.report.differences import DIFFERENCES
from permmoe_simulation.report.the_run import FAILURES, METHODS, REPEAT
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.simulate import RunOptions, all_cells, run_study
from permmoe_simulation.studies.study import StudyConfig

SECTIONS = (METHODS, DIFFERENCES, AGAIN_SECTION, FAILURES, REPEAT)
"""What the report of each cohort shows; curves of training and the like would cost more than the cells."""


@dataclass(frozen=True)
class PowerOutcome:
    """What all studies said."""

    verdicts: pd.DataFrame
    """Rows of VERDICTS."""
    failed: Sequence[str]
    """A line for each cell that did not finish."""


def studies_of(plan: PowerConfig, claimed: StudyConfig) -> list[tuple[Point, int, StudyConfig]]:
    """Every study that is run, in order. Raises ConfigurationError as `study_at`."""
    return [(point, seed, study_at(claimed, point, seed)) for seed in plan.seeds for point in plan.points]


def number_of_cells(studies: Sequence[tuple[Point, int, StudyConfig]]) -> int:
    """How many cells all studies have."""
    return sum(len(all_cells(study, dict.fromkeys(study.regimes, ""), "inprocess")) for _, _, study in studies)


def run_power(
    studies: Sequence[tuple[Point, int, StudyConfig]],
    out: Path,
    workers: int,
    command: str,
    progress: Progress,
    device: str = CPU,
) -> PowerOutcome:
    """Run what is missing of each study in a folder of its own, and read what its tables say.

    A study that was finished before trains nothing. Raises PermmoeError as `run_study`.
    """
    options = RunOptions(shared=out / "shared", workers=workers, command=command, sections=SECTIONS, device=device)
    verdicts, failed = [], []
    for point, seed, study in studies:
        folder = out / "studies" / study.name
        outcome = run_study(study, folder, options, progress)
        failed += [f"{study.name}, {line}" for line in outcome.failed]
        verdicts.append(verdict_rows(folder, study, point, seed))
    return PowerOutcome(pd.concat(verdicts, ignore_index=True), tuple(failed))
