"""The visits that a site takes part with. Nothing here leaves the site."""

from __future__ import annotations

from dataclasses import replace

from permmoe.config import ModelConfig
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.manifest import read_manifest
from permmoe.data.quarantine import Quarantine
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, nearest
from permmoe.layers.encoders import fixed_stem
from permmoe_client.site import SiteConfig


def site_visits(site: SiteConfig, model: ModelConfig) -> VisitData:
    """Load the site's visits, split, with their inputs in memory; list what was left out in the cache folder.

    Raises ConfigurationError for a modality that the study does not have, DataError for a manifest that cannot be used.
    """
    for name in site.modalities:
        if name not in model.names:
            raise ConfigurationError(
                f"site {site.name}: the study has no modality {name!r}; {nearest(name, model.names)}"
            )
    table, quarantine = _read_visits(site, model)
    if site.modalities:
        restricted = (_restricted(visit, site.modalities) for visit in table)
        table = VisitTable(tuple(visit for visit in restricted if visit.observed(model.names)))
    table = assign_splits(table, site.split)
    data, broken = VisitData.load(table, model, VolumeCache(site.cache), stem=fixed_stem(model))
    (quarantine + broken).write(site.cache / f"quarantine-{site.name}.csv")
    return data


def _read_visits(site: SiteConfig, model: ModelConfig) -> tuple[VisitTable, Quarantine]:
    if site.folders:
        found, quarantine = adni_visits(site.folders.tables, site.folders.images, site.folders.target, model.modalities)
        return VisitTable(tuple(visit for visit in found if visit.delta_cdrsb is not None)), quarantine
    assert site.manifest
    return read_manifest(site.manifest, model.modalities)


def _restricted(visit: Visit, modalities: tuple[str, ...]) -> Visit:
    return replace(
        visit,
        volumes={name: file for name, file in visit.volumes.items() if name in modalities},
        tables={name: values for name, values in visit.tables.items() if name in modalities},
    )
