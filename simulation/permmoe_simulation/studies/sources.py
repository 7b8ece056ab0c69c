"""The data of a study's regimes, from a synthetic cohort, planted patients, a manifest or a public table.

A cohort is written once for all studies that use it; one that is written raw is prepared, once, by the function behind
`permmoe data prepare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from permmoe.config import ModelConfig
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.data_digest import data_digest
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import USUAL_COLUMNS
from permmoe.data.public_tables import table_visits
from permmoe.data.quarantine import Quarantine
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError
from permmoe.modality import Modality
from permmoe.preparation.commands import require_tools
from permmoe.preparation.progress import Step
from permmoe.preparation.settings import PreparationSettings
from permmoe_simulation.studies.planted import planted_visits
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.study import DataSource


@dataclass(frozen=True)
class StudyData:
    """Visits whose volumes are in the cache."""

    visits: VisitTable
    quarantine: Quarantine
    cache: Path
    digest: str
    """SHA-256 of the visit table and of every image: what the report shows, and cells are named by."""


def prepare_data(
    source: DataSource,
    model: ModelConfig,
    folder: Path,
    workers: int,
    progress: Progress,
    modalities: Sequence[Modality] = (),
    covariates: Sequence[str] = (),
) -> StudyData:
    """The source's visits; a synthetic cohort is written first, as files, and read back.

    `modalities` are those that a visit has to have at all, by default the model's: a method may have others.
    `covariates` are columns that visits carry as far as they have them.

    Several studies may share `folder`, which keeps cohorts by their digest and preprocessed volumes by their content.
    Raises DataError where there is no usable visit.
    """
    wanted = modalities or model.modalities
    if source.synthetic is not None:
        USUAL_COLUMNS.require(model.score)
        rule = TargetRule(horizon_months=source.horizon_months, further_horizons_months=source.further_horizons_months)
        found, quarantine = _cohort_visits(source.synthetic, rule, wanted, covariates, folder, workers, progress)
        # Those whose change is known at a further horizon alone train the models that are told the horizon.
        visits = found.where(lambda visit: visit.delta_cdrsb is not None or bool(visit.later_changes))
    elif source.planted is not None:
        visits, quarantine = planted_visits(source.planted, wanted), Quarantine(())
    elif source.table is not None:
        visits, quarantine = table_visits(source.table, wanted)
    else:
        assert source.manifest is not None
        visits, quarantine = read_manifest(
            source.manifest, wanted, score=model.score, columns=source.outcome, covariates=covariates
        )
    if len(visits) == 0:
        raise DataError("the study has no usable visit; `permmoe data inspect` on its manifest says why")
    progress.stage("volumes", 1)
    cache = VolumeCache(folder / "volumes")
    quarantine = quarantine + cache.build(visits, model.modalities, model.grid, workers=workers)
    progress.step("cache")
    return StudyData(visits, quarantine, cache.folder, data_digest(visits, wanted, model.grid, cache))


def _cohort_visits(
    cohort: CohortConfig,
    rule: TargetRule,
    modalities: Sequence[Modality],
    covariates: Sequence[str],
    folder: Path,
    workers: int,
    progress: Progress,
) -> tuple[VisitTable, Quarantine]:
    """The visits of a cohort that is written, and prepared where it is raw, before it is read."""
    files = folder / "cohorts" / cohort.digest()[:12]
    progress.stage("synthetic cohort", cohort.subjects)
    write_cohort(files, cohort, workers=workers, progress=lambda done, total: progress.step("subject"))
    if cohort.raw is None:
        return adni_visits(files / "clinical", files, rule, modalities, covariates)
    images, left_out = _prepared(files, cohort, folder, workers, progress)
    visits, quarantine = adni_visits(files / "clinical", images, rule, modalities, covariates)
    return visits, left_out + quarantine


def _prepared(
    files: Path, cohort: CohortConfig, folder: Path, workers: int, progress: Progress
) -> tuple[Path, Quarantine]:
    """The folder of a raw cohort's prepared images, and what could not be prepared."""
    require_tools()
    # Imported late: SimpleITK takes seconds, which no other study needs.
    from permmoe.preparation.folder import prepare_folder

    settings = PreparationSettings(spacing_mm=min(max(cohort.grid.spacing_mm, 1.0), 4.0))
    out = folder / "prepared" / f"{cohort.digest()[:12]}-{settings.digest()[:6]}"
    told = 0

    def tell(step: Step, done: int, total: int | None) -> None:
        nonlocal told
        if step is not Step.PREPARED:
            return
        if not done:
            progress.stage("preparation of raw scans", total or 0)
        for _ in range(told, done):
            progress.step("scan")
        told = done

    return out, prepare_folder(files, out, settings, workers=workers, progress=tell).left_out
