"""The visits that a site takes part with, and what the site's own log says of them. Nothing here leaves the site."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from permmoe.config import ModelConfig, Score
from permmoe.data.adni import select_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import OutcomeColumns
from permmoe.data.presence import require_images
from permmoe.data.quarantine import Quarantine
from permmoe.data.selection import Selection
from permmoe.data.splits import Split, assign_splits
from permmoe.data.tracer_rule import mixed_tracers
from permmoe.data.unlike import described_images, unlike_the_rest
from permmoe.data.visit_scores import score_of_tables
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError, nearest
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import Modality
from permmoe.preparation.progress import Progress
from permmoe_client.participation.horizon import require_horizon
from permmoe_client.participation.prepared_images import with_prepared_images
from permmoe_client.release.withdrawals import NOBODY_ABSENT, Absent
from permmoe_client.site import DataFolders, SiteConfig

LOG = logging.getLogger("permmoe.client")


def site_visits(
    site: SiteConfig,
    model: ModelConfig,
    horizon_months: float | None = None,
    absent: Absent = NOBODY_ABSENT,
    with_unlabelled: bool = False,
    progress: Progress | None = None,
) -> VisitData:
    """Load the site's visits, split, with their inputs in memory; list what was left out in the cache folder.

    Those without an outcome are among them `with_unlabelled`, and else left out.

    `horizon_months` is that of the study, if it declares one. Nobody who withdrew is among them, and no image of theirs
    is opened. `progress` is told how far the preparation of raw images is; without it the site's own log.

    Raises ConfigurationError for a modality that the study does not have, DataError for a manifest that cannot be used
    or is of another score or horizon than the study's, where no visit is left, and where all images of a modality are
    away.
    """
    for name in site.modalities:
        if name not in model.names:
            raise ConfigurationError(
                f"site {site.name}: the study has no modality {name!r}; {nearest(name, model.names)}"
            )
    everybody, left_out = _split_visits(site, model, horizon_months, absent, progress, with_unlabelled=with_unlabelled)
    table = everybody.where(lambda visit: visit.subject_id not in absent)
    cache = VolumeCache(site.cache)
    data, broken = VisitData.load(table, model, cache, stem=fixed_stem(model))
    left_out += broken
    left_out.write(site.cache / f"quarantine-{site.name}.csv")
    require_images(data.visits, left_out, site.modalities or model.names)
    if not len(data):
        if absent.is_everybody:
            raise DataError("the hospital withdrew: nobody takes part here", for_log="the hospital withdrew")
        raise DataError(f"site {site.name} has no visit to take part with", for_log=_nobody(left_out))
    LOG.info("%s", in_words(data))
    if n := sum(visit.delta_cdrsb is None for visit in data.visits):
        LOG.info("without an outcome, for pretraining alone: %d of them", n)
    if n := len(everybody) - len(table):
        LOG.info("left out: withdrew (%d)", n)
    for sentence in mixed_tracers(data.visits, model.modalities).values():
        LOG.warning("%s", sentence)
    for reason, n in left_out.counts().items():
        LOG.warning("left out: %s (%d)", reason, n)
    described = described_images(data.visits, model.modalities, model.grid, cache)
    for name, visits in unlike_the_rest(described).items():
        if visits:
            LOG.warning(
                "%d images of %s are unlike this site's others; --check --details names them", len(visits), name
            )
    return data


def parts_of(
    site: SiteConfig,
    model: ModelConfig,
    horizon_months: float | None,
    absent: Absent,
    *,
    with_unlabelled: bool = False,
) -> Mapping[str, Split]:
    """The part of the split of each patient of the site's table, also of the absent; who has no outcome trains, where
    anybody learns from it. Errors as of `site_visits`."""
    table, _ = _split_visits(site, model, horizon_months, absent, None, with_unlabelled=with_unlabelled)
    return {visit.subject_id: visit.split for visit in table if visit.split}


def _split_visits(
    site: SiteConfig,
    model: ModelConfig,
    horizon_months: float | None,
    absent: Absent,
    progress: Progress | None,
    *,
    with_unlabelled: bool,
) -> tuple[VisitTable, Quarantine]:
    """The visits of everybody, with their parts. Those who withdrew are split as before, so that a withdrawal moves
    nobody else from one part to another; their images are not prepared."""
    table, quarantine = _read_visits(site, model, with_unlabelled=with_unlabelled)
    require_horizon(site, {visit.horizon_months for visit in table}, horizon_months)
    if site.modalities:
        restricted = (_restricted(visit, site.modalities) for visit in table)
        table = VisitTable(tuple(visit for visit in restricted if visit.observed(model.names)))
    withdrawn = tuple(visit for visit in table if visit.subject_id in absent)
    present = table.where(lambda visit: visit.subject_id not in absent)
    present, not_prepared = with_prepared_images(site, model, present, progress)
    return assign_splits(VisitTable((*present, *withdrawn)), site.split), quarantine + not_prepared


def in_words(data: VisitData) -> str:
    """How many patients there are and how many have each modality; for the site's own log."""
    counts = zip(data.names, data.observed.sum(0).tolist(), strict=True)
    return f"{len(data)} patients: {', '.join(f'{name} {n}' for name, n in counts)}"


def _nobody(left_out: Quarantine) -> str:
    reasons = "; ".join(f"{reason} ({n})" for reason, n in left_out.counts().items()) or "the table has no rows"
    return f"no visit to take part with: {reasons}"


def _read_visits(site: SiteConfig, model: ModelConfig, *, with_unlabelled: bool) -> tuple[VisitTable, Quarantine]:
    site.outcome.require(model.score)
    if site.folders:
        selection = select_folder_visits(site.folders, site.outcome, model.score, model.modalities, model.harmonised_by)
        visits = selection.visits
        known = visits if with_unlabelled else visits.where(lambda visit: visit.delta_cdrsb is not None)
        return known, selection.quarantine
    assert site.manifest
    return read_manifest(
        site.manifest,
        model.modalities,
        need_target=not with_unlabelled,
        score=model.score,
        columns=site.outcome,
        covariates=model.harmonised_by,
    )


def select_folder_visits(
    folders: DataFolders,
    outcome: OutcomeColumns,
    score: Score,
    modalities: Sequence[Modality],
    covariates: Sequence[str] = (),
) -> Selection:
    """The index visits of tables and images, also those without an outcome, with the numbers of these columns. Raises
    DataError."""
    tables_score = score_of_tables(outcome, folders.score, score)
    selection = select_visits(
        folders.tables, folders.images, folders.target, modalities, tables_score, covariates=covariates
    )
    selection.require_visits()
    for note in selection.notes:
        LOG.info("%s", note)
    return selection


def _restricted(visit: Visit, modalities: tuple[str, ...]) -> Visit:
    return replace(
        visit,
        volumes={name: file for name, file in visit.volumes.items() if name in modalities},
        tables={name: values for name, values in visit.tables.items() if name in modalities},
    )
