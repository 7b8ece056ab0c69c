"""A site's own settings, and the visits that it takes part with. Nothing here leaves the site."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from permmoe.config import Configuration, ModelConfig, SplitConfig, read_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.manifest import read_manifest
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.encoders import fixed_stem
from permmoe.errors import ConfigurationError, nearest
from permmoe.federated.records import SITE_NAME


class SiteConfig(Configuration):
    """What a hospital decides for itself; a YAML file on its own machine."""

    name: str = Field(pattern=f"^{SITE_NAME.pattern}$", description="what the coordinator knows the site by")
    manifest: Path = Field(description="CSV file of the site's index visits")
    cache: Path = Field(description="folder for preprocessed volumes; it will hold patients' images")
    modalities: tuple[str, ...] = Field((), description="modalities to take part with; empty: all that visits have")
    split: SplitConfig = Field(SplitConfig(), description="which visits train, steer and judge")
    threads: int = Field(1, ge=0, description="CPU threads of a training; 0: as many as PyTorch likes")
    device: str = Field("cpu", description="where to train: cpu, cuda, cuda:1 …")
    min_cell_count: int = Field(5, ge=1, description="no metric over fewer subjects leaves, whatever the study says")


def read_site(path: Path) -> SiteConfig:
    """The site's settings; relative paths start at the file's folder. Raises ConfigurationError."""
    site = read_config(path, SiteConfig)
    return site.model_copy(update={"manifest": path.parent / site.manifest, "cache": path.parent / site.cache})


# Reading is done once a process: rounds must not wait for it, nor see a manifest that changes between them.
@lru_cache(maxsize=256)
def site_visits(site: SiteConfig, model: ModelConfig) -> VisitData:
    """The site's visits, split, with their inputs in memory; what was left out is listed in the cache folder.

    Raises ConfigurationError for a modality that the study does not have, DataError for a manifest that cannot be used.
    """
    for name in site.modalities:
        if name not in model.names:
            raise ConfigurationError(
                f"site {site.name}: the study has no modality {name!r}; {nearest(name, model.names)}"
            )
    table, quarantine = read_manifest(site.manifest, model.modalities)
    if site.modalities:
        restricted = (_restricted(visit, site.modalities) for visit in table)
        table = VisitTable(tuple(visit for visit in restricted if visit.observed(model.names)))
    split = site.split
    table = assign_splits(table, seed=split.seed, scheme=split.scheme, validation=split.validation, test=split.test)
    data, broken = VisitData.load(table, model, VolumeCache(site.cache), stem=fixed_stem(model))
    (quarantine + broken).write(site.cache / f"quarantine-{site.name}.csv")
    return data


def _restricted(visit: Visit, modalities: tuple[str, ...]) -> Visit:
    return replace(
        visit,
        volumes={name: file for name, file in visit.volumes.items() if name in modalities},
        tables={name: values for name, values in visit.tables.items() if name in modalities},
    )
