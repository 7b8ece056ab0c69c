"""What a study leaves beside its cells: the tables, the example slices and `summary.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml

from permmoe.data.cache import VolumeCache
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import VisitTable
from permmoe.runtime.provenance import machine, versions
from permmoe_simulation.report import ReportSection
from permmoe_simulation.report.files import SLICES
from permmoe_simulation.studies.findings import evaluated_goals, findings
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.ladder_findings import ladder_sentences
from permmoe_simulation.studies.ladder_results import HeldAgainstLadder, as_table, held_against_ladder
from permmoe_simulation.studies.results import comparisons, results
from permmoe_simulation.studies.sources import StudyData
from permmoe_simulation.studies.study import StudyConfig
from permmoe_simulation.study_tables import COMPARISONS, LADDER, RESULTS
from permmoe_simulation.summary import MethodSummary, Summary


@dataclass(frozen=True)
class RunFacts:
    """What the summary says of the run itself."""

    failed: Sequence[str]
    """Cells that did not finish, each with the type of its error."""
    left_out_sites: int
    """Sites that the first cell's partition left out."""
    left_out: Sequence[str]
    """A line for each site that any cell's partition left out."""
    command: str
    seconds: float
    peak_memory_mb: int
    date: str


@dataclass(frozen=True)
class Compared:
    """What the summary's sentences are made of."""

    pairs: pd.DataFrame
    """Rows of COMPARISONS."""
    ladder: Sequence[HeldAgainstLadder]


def write_tables(done: FinishedStudy, sections: Iterable[ReportSection], out: Path) -> Compared:
    """Write the study's tables and those of the report's sections."""
    study = done.config
    RESULTS.write(results(done.errors), out)
    compared = Compared(
        comparisons(done.errors, study.pairs, study.claims),
        held_against_ladder(done.errors, study.ladder_pairs, study.labels),
    )
    COMPARISONS.write(compared.pairs, out)
    LADDER.write(as_table(compared.ladder), out)
    for section in sections:
        for table, rows_of in section.tables.items():
            table.write(rows_of(done), out)
    return compared


def write_slices(study: StudyConfig, data: StudyData, out: Path) -> None:
    """Write `slices.npz`, from which the report shows example images, for a synthetic cohort only."""
    slices = example_slices(data.visits, study, data.cache)
    if slices:
        np.savez(out / SLICES, **slices)  # type: ignore[arg-type]


def example_slices(visits: VisitTable, study: StudyConfig, cache: Path) -> dict[str, np.ndarray]:
    """The middle axial and coronal slice of each volume modality of a visit that has most of them.

    They are only made for synthetic cohorts: a report must not show a patient.
    """
    if study.data.synthetic is None:
        return {}
    visit = max(visits, key=lambda v: (len(v.volumes), v.subject_id))
    slices: dict[str, np.ndarray] = {}
    for modality in study.model.modalities:
        if modality.name in visit.volumes:
            volume = VolumeCache(cache).get(visit.volumes[modality.name], modality, study.model.grid)
            middle = [n // 2 for n in volume.shape]
            slices[f"{modality.name}_axial"] = np.asarray(volume[:, :, middle[2]], dtype=np.float32)
            slices[f"{modality.name}_coronal"] = np.asarray(volume[:, middle[1], :], dtype=np.float32)
    return slices


def summary_of(done: FinishedStudy, compared: Compared, data: Sequence[StudyData], facts: RunFacts) -> Summary:
    """The summary of a study. `data`: the regimes' data, each once."""
    study = done.config
    goals = evaluated_goals(study.claims, compared.pairs, study.labels)
    return Summary(
        study=study.name,
        synthetic=study.data.is_invented,
        source=source_kind(study),
        data=study.description,
        outcome=study.outcome,
        axis=done.axis,
        published=study.published,
        methods={
            name: MethodSummary(kind=method.kind, label=method.label, description=method.description)
            for name, method in study.methods.items()
        },
        modalities=study.model.names,
        findings=tuple(findings(goals, study.outcome.unit, names_regime=len(study.regimes) > 1)),
        goals=tuple(goals),
        ladder=tuple(ladder_sentences(study, compared.ladder, done.visits)),
        configuration=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False),
        versions=versions(),
        machine=machine(),
        digests={"data": _combined(d.digest for d in data), "study": study.digest()},
        seeds=study.seeds,
        failed_cells=tuple(facts.failed),
        quarantine=dict(sum((d.quarantine for d in data), Quarantine(())).counts()),
        left_out_sites=facts.left_out_sites,
        left_out=tuple(facts.left_out),
        command=facts.command,
        seconds=facts.seconds,
        peak_memory_mb=facts.peak_memory_mb,
        date=facts.date,
    )


def source_kind(study: StudyConfig) -> Literal["synthetic", "manifest", "public"]:
    """Where the study's visits come from: invented patients, a manifest of real visits, or a public table."""
    if study.data.is_invented:
        return "synthetic"
    return "public" if study.data.manifest is None else "manifest"


def _combined(digests: Iterable[str]) -> str:
    """One digest as it is; the SHA-256 of several."""
    several = list(digests)
    return several[0] if len(several) == 1 else hashlib.sha256("".join(several).encode()).hexdigest()
