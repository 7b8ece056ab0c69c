"""Which hospital holds which visit, and what of it: by ADNI site code, by a Dirichlet draw, or by a declared table.

On top of that a missingness regime can take modalities away from training and validation visits, and whole sites may
train nothing. Test visits keep theirs, so that regimes are compared on the same subjects. A partition is a pure
function of the visits, its configuration and a seed. It depends on the set of visits, not on their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations as choose
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt, model_validator

from permmoe.config import Configuration
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError, nearest
from permmoe.federated.roster import SITE_NAME
from permmoe.modality import Combination
from permmoe_simulation.studies.slowness import Slowness


class PartitionSite(Configuration):
    """A hospital of a declared table."""

    name: str = Field(pattern=f"^{SITE_NAME.pattern}$")
    share: float = Field(1.0, gt=0, description="of the visits, relative to the other sites")
    modalities: tuple[str, ...] = Field(min_length=1, description="what it collects; anything else is dropped there")


class Missingness(Configuration):
    """What is taken away from training and validation visits besides what they lack already, and why (Rubin 1976).

    `mcar`: each modality with chance `rate`. `mar`: the chance grows with the rank of baseline CDR-SB, `mnar`: with
    that of the outcome itself; its mean is `rate`. `structural`: whole hospitals lack a share `rate` of the modalities,
    as if for want of a scanner. `exclusive`: each hospital has a single modality. `rare`: all hospitals but `holders`
    lack `modality`. No visit loses all it has to the first three; what is left empty by the others takes no part in
    training.
    """

    kind: Literal["none", "mcar", "mar", "mnar", "structural", "exclusive", "rare"] = "none"
    rate: float = Field(
        0.5, ge=0, le=1, description="share of the observations that is taken away; exclusive and rare: ignored"
    )
    # Absent from `model_dump` at their defaults, so that digests of older studies stay what they were.
    modality: str = Field("", exclude_if=lambda name: name == "", description="rare: what most hospitals lack")
    holders: int = Field(
        0, ge=0, exclude_if=lambda sites: sites == 0, description="rare: hospitals that have it, drawn by the seed"
    )

    @model_validator(mode="after")
    def _says_what_is_rare(self) -> Missingness:
        if {bool(self.modality), bool(self.holders)} != {self.kind == "rare"}:
            raise ValueError("modality and holders go with kind: rare, both of them, and only with it")
        return self


class KnownOutcomes(Configuration):
    """Of which training visits the outcome is known, at each hospital. Validation and test visits keep theirs."""

    labelled: float = Field(gt=0, le=1, description="share of a hospital's training visits that keep their outcome")
    unlabelled: float = Field(
        ge=0, lt=1, description="share that stays without it, for pretraining alone; what is left is taken away"
    )

    @model_validator(mode="after")
    def _are_shares_of_one_whole(self) -> KnownOutcomes:
        if self.labelled + self.unlabelled > 1 + 1e-9:
            raise ValueError(f"labelled = {self.labelled} and unlabelled = {self.unlabelled} are more than all visits")
        return self


class PartitionConfig(Configuration):
    """How visits are dealt out."""

    kind: Literal["site", "dirichlet", "table"] = Field("site", description="site: by the visits' own site codes")
    sites: int = Field(8, ge=1, description="dirichlet: number of sites")
    alpha: float = Field(1.0, gt=0, description="dirichlet: concentration; small means sites of few combinations")
    table: tuple[PartitionSite, ...] = Field((), description="table: the sites")
    min_training_visits: int = Field(1, ge=1, description="sites with fewer are left out of the study, and itemised")
    missing: Missingness = Missingness()
    # Absent from `model_dump` at its default, so that digests of older studies stay what they were.
    unseen: int = Field(
        0, ge=0, exclude_if=lambda sites: sites == 0,
        description="sites, drawn by the seed, that train nothing: their training and validation visits are left out, "
        "and their test visits are predicted by what the other sites trained",
    )  # fmt: skip
    # As above.
    outcomes: KnownOutcomes | None = Field(
        None, exclude_if=lambda outcomes: outcomes is None,
        description="training visits whose outcome is known, drawn by the seed: the same ones whatever share of the "
        "others stays without; none: all",
    )  # fmt: skip
    # As above.
    unseen_visits: Literal["test", "all", "alone"] = Field(
        "test", exclude_if=lambda visits: visits == "test",
        description="of unseen sites; all: their training and validation visits are test visits too, and none left "
        "out; alone: these are all test visits that there are, and the other sites train on their own",
    )  # fmt: skip
    attendance: dict[str, tuple[PositiveInt, PositiveInt]] = Field(
        default_factory=dict, description="first and last round of sites that join late or leave; others: all rounds"
    )
    # As above.
    slowness: Slowness | None = Field(
        None, exclude_if=lambda slowness: slowness is None,
        description="federations run in simulated time, in which sites are slow or away; none: all answer at once",
    )  # fmt: skip

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
    # A stream of its own: the same visits lie at the same sites whatever is missing there.
    sites = _thinned(sites, names, config.missing, np.random.default_rng((seed, 1)))
    if config.outcomes:
        drawn = np.random.default_rng((seed, 3))
        sites = {site: _with_known(table, config.outcomes, drawn) for site, table in sites.items()}
    taking_part = {s: t for s, t in sites.items() if _training_visits(t) >= config.min_training_visits}
    if not taking_part:
        raise ConfigurationError(
            f"no site has {config.min_training_visits} training visit(s); lower min_training_visits or the test share"
        )
    unseen = _unseen(taking_part, config, np.random.default_rng((seed, 2)))
    if unseen and config.unseen_visits == "alone":
        taking_part = {site: _without_tests(table) for site, table in taking_part.items()}
    return taking_part | unseen, {s: t for s, t in sites.items() if s not in taking_part}


def training_sites(sites: Sites) -> Sites:
    """Those that train; the others were drawn to be unseen (`PartitionConfig.unseen`)."""
    return {site: table for site, table in sites.items() if _training_visits(table)}


def _unseen(sites: Sites, config: PartitionConfig, generator: np.random.Generator) -> dict[str, VisitTable]:
    """As many sites with test visits as are to train nothing, with nothing but test visits."""
    count = config.unseen
    tests = {site: VisitTable(tuple(v for v in table if v.split == "test")) for site, table in sites.items()}
    able = [site for site, table in tests.items() if len(table)]
    if count > min(len(able), len(sites) - 1):
        raise ConfigurationError(
            f"unseen = {count}, but {len(sites)} sites take part, {len(able)} of them with test visits, and one at "
            "least has to train; lower unseen, or deal the visits out to more sites"
        )
    drawn = [able[i] for i in generator.permutation(len(able))[:count]]
    if config.unseen_visits == "test":
        return {site: tests[site] for site in drawn}
    return {site: VisitTable(tuple(replace(v, split="test") for v in sites[site])) for site in drawn}


def _without_tests(table: VisitTable) -> VisitTable:
    """The visits of a site that trains on those, too, that another study would test."""
    return VisitTable(tuple(replace(visit, split="train") if visit.split == "test" else visit for visit in table))


def _thinned(
    sites: Sites, names: tuple[str, ...], config: Missingness, generator: np.random.Generator
) -> dict[str, VisitTable]:
    """The sites after the missingness regime; one without a visit is gone."""
    match config.kind:
        case "none":
            return dict(sites)
        case "structural" | "exclusive":
            n_kept = 1 if config.kind == "exclusive" else max(1, round((1 - config.rate) * len(names)))
            kept = _scanners(tuple(sites), names, n_kept, generator)
            thinned = {site: _where_training(sites[site], partial(only, modalities=kept[site])) for site in sites}
        case "rare":
            others = _others(names, config.modality)
            holders = generator.permutation(list(sites))[: config.holders]
            without = partial(_where_training, change=partial(only, modalities=others))
            thinned = {site: table if site in holders else without(table) for site, table in sites.items()}
        case _:
            chances = _chances(sites, config)
            thinned = {
                site: _where_training(
                    table, lambda v: _withheld(v, names, chances.get(v.subject_id, config.rate), generator)
                )
                for site, table in sites.items()
            }
    return {site: table for site, table in thinned.items() if len(table)}


def _with_known(table: VisitTable, outcomes: KnownOutcomes, generator: np.random.Generator) -> VisitTable:
    """The hospital's visits of which so many train, so many have lost their outcome, and the others are gone."""
    training = [v.subject_id for v in table if v.split == "train"]
    order = [training[i] for i in generator.permutation(len(training))]
    n_known = round(outcomes.labelled * len(order))
    known, without = set(order[:n_known]), set(order[n_known : n_known + round(outcomes.unlabelled * len(order))])
    return VisitTable(
        tuple(
            replace(visit, delta_cdrsb=None) if visit.subject_id in without else visit
            for visit in table
            if visit.split != "train" or visit.subject_id in known | without
        )
    )


def _scanners(
    sites: tuple[str, ...], names: tuple[str, ...], n_kept: int, generator: np.random.Generator
) -> dict[str, Combination]:
    """What each site collects: combinations of one size in turn, so that modalities are spread evenly over sites."""
    possible = list(choose(names, n_kept))
    first = generator.permutation(len(possible))
    order = generator.permutation(len(sites))
    return {sites[s]: possible[first[i % len(possible)]] for i, s in enumerate(order)}


def _others(names: tuple[str, ...], rare: str) -> Combination:
    """All modalities but the rare one. Raises ConfigurationError where there is no such modality."""
    if rare not in names:
        raise ConfigurationError(f"missing.modality names unknown {rare!r}; {nearest(rare, names)}")
    return tuple(name for name in names if name != rare)


def _chances(sites: Sites, config: Missingness) -> dict[str, float]:
    """Each visit's chance to lose a modality. Linear in the rank of what it depends on, and `rate` on average."""
    if config.kind == "mcar":
        return {}
    visits = [v for table in sites.values() for v in table if v.split != "test"]
    if config.kind == "mar":
        cause = np.array([v.baseline_cdrsb for v in visits])
    else:
        cause = np.array([np.nan if v.delta_cdrsb is None else v.delta_cdrsb for v in visits])
    rank = (pd.Series(cause).rank().to_numpy() - 0.5) / max(len(visits), 1)
    rank = np.where(np.isnan(rank), 0.5, rank)
    rate = config.rate
    chance = 2 * rate * rank if rate <= 0.5 else 1 - 2 * (1 - rate) * (1 - rank)
    return {v.subject_id: float(c) for v, c in zip(visits, chance, strict=True)}


def _withheld(visit: Visit, names: tuple[str, ...], chance: float, generator: np.random.Generator) -> Visit:
    """The visit without some of its modalities, but never without all."""
    observed = visit.observed(names)
    stays = generator.random(len(observed)) >= chance
    stays[generator.integers(len(observed))] |= not stays.any()
    return only(visit, tuple(name for name, kept in zip(observed, stays, strict=True) if kept))


def _where_training(table: VisitTable, change: Callable[[Visit], Visit]) -> VisitTable:
    """The table with its training and validation visits changed; those that nothing is left of are dropped."""
    changed = [v if v.split == "test" else change(v) for v in table]
    return VisitTable(tuple(v for v in changed if v.volumes or v.tables))


def _site_name(code: str) -> str:
    """The code, which also names a folder. Raises DataError where it cannot."""
    if not SITE_NAME.fullmatch(code):
        raise DataError(f"site code {code!r} is no name of a site; use a-z, 0-9, '_' and '-' in the manifest")
    return code


def _training_visits(table: VisitTable) -> int:
    return sum(v.split == "train" and v.delta_cdrsb is not None for v in table)


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
