"""Which hospital holds which visit: by ADNI site code, by a Dirichlet draw, or by a declared table.

A partition is a pure function of the visits, its configuration and a seed. It depends on the set of visits, not on
their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from permmoe.config import Configuration
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError, nearest
from permmoe.federated.records import SITE_NAME
from permmoe.modality import Combination


class PartitionSite(Configuration):
    """A hospital of a declared table."""

    name: str = Field(pattern=f"^{SITE_NAME.pattern}$")
    share: float = Field(1.0, gt=0, description="of the visits, relative to the other sites")
    modalities: tuple[str, ...] = Field(min_length=1, description="what it collects; anything else is dropped there")


class PartitionConfig(Configuration):
    """How visits are dealt out."""

    kind: Literal["site", "dirichlet", "table"] = Field("site", description="site: by the visits' own site codes")
    sites: int = Field(8, ge=1, description="dirichlet: number of sites")
    alpha: float = Field(1.0, gt=0, description="dirichlet: concentration; small means sites of few combinations")
    table: tuple[PartitionSite, ...] = Field((), description="table: the sites")
    min_training_visits: int = Field(1, ge=1, description="sites with fewer are left out of the study, and itemised")

    @model_validator(mode="after")
    def _has_its_table(self) -> PartitionConfig:
        if (self.kind == "table") != bool(self.table):
            raise ValueError("a list of sites under 'table' goes with kind: table, and only with it")
        names = [site.name for site in self.table]
        if len(set(names)) != len(names):
            raise ValueError("two sites of the table have the same name")
        return self


Sites = Mapping[str, VisitTable]
"""The visits of each site, by site name, names sorted."""


def partition(visits: VisitTable, names: tuple[str, ...], config: PartitionConfig, seed: int) -> tuple[Sites, Sites]:
    """Deal the visits out: the sites that take part, and those left out for too few training visits.

    `names` are the study's modalities in order. Raises ConfigurationError where no site is left.
    """
    ordered = sorted(visits, key=lambda v: v.subject_id)
    generator = np.random.default_rng(seed)
    if config.kind == "site":
        dealt = [(_site_name(v.site), v) for v in ordered]
    elif config.kind == "dirichlet":
        dealt = _dirichlet(ordered, names, config, generator)
    else:
        dealt = _table(ordered, names, config, generator)
    groups: dict[str, list[Visit]] = {}
    for site, visit in dealt:
        groups.setdefault(site, []).append(visit)
    sites = {site: VisitTable(tuple(groups[site])) for site in sorted(groups)}
    taking_part = {s: t for s, t in sites.items() if _training_visits(t) >= config.min_training_visits}
    if not taking_part:
        raise ConfigurationError(
            f"no site has {config.min_training_visits} training visit(s); lower min_training_visits or the test share"
        )
    return taking_part, {s: t for s, t in sites.items() if s not in taking_part}


def _site_name(code: str) -> str:
    """The code, which also names a folder. Raises DataError where it cannot."""
    if not SITE_NAME.fullmatch(code):
        raise DataError(f"site code {code!r} is no name of a site; use a-z, 0-9, '_' and '-' in the manifest")
    return code


def _training_visits(table: VisitTable) -> int:
    return sum(v.split == "train" for v in table)


def _dirichlet(
    visits: list[Visit], names: tuple[str, ...], config: PartitionConfig, generator: np.random.Generator
) -> list[tuple[str, Visit]]:
    """For each combination of modalities, shares over sites drawn from Dirichlet(α)."""
    shares: dict[Combination, np.ndarray] = {}
    for combination in sorted({v.observed(names) for v in visits}):
        shares[combination] = generator.dirichlet(np.full(config.sites, config.alpha))
    width = len(str(config.sites - 1))
    return [(f"site{generator.choice(config.sites, p=shares[v.observed(names)]):0{width}d}", v) for v in visits]


def _table(
    visits: list[Visit], names: tuple[str, ...], config: PartitionConfig, generator: np.random.Generator
) -> list[tuple[str, Visit]]:
    """By the sites' shares, among the sites that would keep at least one of the visit's modalities."""
    for site in config.table:
        for name in site.modalities:
            if name not in names:
                raise ConfigurationError(f"site {site.name} collects unknown {name!r}; {nearest(name, names)}")
    dealt = []
    for visit in visits:
        observed = visit.observed(names)
        possible = [site for site in config.table if set(site.modalities) & set(observed)]
        if not possible:
            continue
        shares = np.array([site.share for site in possible])
        site = possible[generator.choice(len(possible), p=shares / shares.sum())]
        dealt.append((site.name, only(visit, site.modalities)))
    return dealt


def only(visit: Visit, modalities: tuple[str, ...]) -> Visit:
    """The visit as a hospital sees it that collects only these modalities."""
    return replace(
        visit,
        volumes={name: path for name, path in visit.volumes.items() if name in modalities},
        tables={name: row for name, row in visit.tables.items() if name in modalities},
    )
