"""A site's visits without what its own scanners add to their images, as far as that can be told there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from permmoe.config import AGE
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit
from permmoe.ensemble import Ensemble, Network
from permmoe.layers.harmonisation import Harmonisation


@dataclass(frozen=True)
class Harmonised:
    """Visits, and what was done to them."""

    data: VisitData
    as_they_were: Mapping[str, str]
    """Why a modality was left as it is, by its name; in words, with no more than counts."""


def harmonised(model: Harmonisation, data: VisitData, *, nobody_trained: bool = False) -> Harmonised:
    """The visits of one site with harmonised inputs.

    The site's shift and scale are told by its training visits or, at a site that has none, and where `nobody_trained`
    whatever part a visit is in, by all its visits: by images and covariates, and by no outcome. A modality that too few
    of these have, or that no site has told of, stays.
    """
    told_by = data.part("train")
    source = told_by if len(told_by) and not nobody_trained else data
    inputs, reasons = dict(data.inputs), dict[str, str]()
    for name in _observed(data):
        shared = model.moments_of(name).shared()
        reason = cannot_be_told(model, source, name) if shared else "no site has told how scanners differ"
        if shared is None or reason:
            reasons[name] = reason
            continue
        effect = model.effect(shared, values_of(model, source, name), covariates_of(model, source, name))
        stored = _stored(data, name)
        read = data.inputs[name].read(stored)
        own = model.without(shared, effect, model.values(name, read), covariates_of(model, data, name, source))
        # Rows are numbered as before, so that subsets of these visits find theirs.
        rows = torch.zeros(int(stored.max()) + 1, *read.shape[1:])
        rows[stored] = model.inputs(name, own, read)
        inputs[name] = MemoryRows(rows)
    return Harmonised(replace(data, inputs=inputs), reasons)


def as_read(
    network: Network, data: VisitData, *, nobody_trained: bool = False
) -> tuple[VisitData, Mapping[str, Mapping[str, str]]]:
    """Visits of any number of hospitals as a network reads them: harmonised hospital by hospital, where its training
    was. Beside them, by hospital, why modalities were left as they are. `nobody_trained`: as of `harmonised`."""
    model = None if isinstance(network, Ensemble) else network.harmonisation
    if model is None:
        return data, {}
    every = {name: _stored(data, name) for name in _observed(data)}
    rows = {name: torch.zeros(int(stored.max()) + 1, *data.inputs[name].read(stored[:1]).shape[1:])
            for name, stored in every.items()}  # fmt: skip
    reasons: dict[str, Mapping[str, str]] = {}
    for site in data.visits.sites:
        own = [row for row, visit in enumerate(data.visits) if visit.site == site]
        of_site = data.subset(torch.tensor(own, dtype=torch.long))
        found = harmonised(model, of_site, nobody_trained=nobody_trained)
        reasons[site] = found.as_they_were
        for name in _observed(found.data):
            stored = _stored(found.data, name)
            rows[name][stored] = found.data.inputs[name].read(stored)
    inputs = {**data.inputs, **{name: MemoryRows(own) for name, own in rows.items()}}
    return replace(data, inputs=inputs), reasons


def cannot_be_told(model: Harmonisation, data: VisitData, name: str) -> str:
    """Why these visits do not tell how their site's scanner differs in a modality; empty where they do."""
    n = int(_having(data, name).sum())
    if n < model.config.least_visits:
        return f"{n} patients have it, and {model.config.least_visits} are needed to tell scanners from patients"
    is_absent = _table(model, data, name).isnan().all(0)[1:].tolist()
    absent = [column for column, nobody_has in zip(model.config.columns, is_absent, strict=True) if nobody_has]
    return f"no patient has {', '.join(absent)}, which it would be adjusted for" if absent else ""


def values_of(model: Harmonisation, data: VisitData, name: str) -> Float64[Tensor, "visit feature"]:
    """The features of the visits that have a modality."""
    return model.values(name, data.inputs[name].read(_stored(data, name)))


def covariates_of(
    model: Harmonisation, data: VisitData, name: str, source: VisitData | None = None
) -> Float64[Tensor, "visit covariate"]:
    """The scaled covariates of the visits that have a modality: the score at the visit, then the configuration's.

    A number that a visit lacks is the mean of those of `source` that have the modality and the number, by default these
    visits; then it tells nothing of slopes.
    """
    own, others = _table(model, data, name), _table(model, source or data, name)
    return torch.where(own.isnan(), others.nanmean(0), own)


def in_words(reasons: Mapping[str, str]) -> Iterable[str]:
    """A sentence for each modality that stays."""
    return [f"{name} is not harmonised here and stays as it is: {reason}" for name, reason in sorted(reasons.items())]


def _table(model: Harmonisation, data: VisitData, name: str) -> Float64[Tensor, "visit covariate"]:
    """NaN where a number is missing."""
    rows = _having(data, name).nonzero().flatten().tolist()
    visits = [data.visits.visits[row] for row in rows]
    columns = model.config.columns
    table = [[visit.baseline_cdrsb, *(_number(visit, column) for column in columns)] for visit in visits]
    return model.scaled_covariates(torch.tensor(table, dtype=torch.float64).reshape(len(rows), 1 + len(columns)))


def _number(visit: Visit, column: str) -> float:
    """NaN where the visit lacks it."""
    number = visit.age_years if column == AGE else visit.covariates.get(column)
    return float("nan") if number is None else number


def _having(data: VisitData, name: str) -> Bool[Tensor, " visit"]:
    return data.observed[:, data.names.index(name)]


def _stored(data: VisitData, name: str) -> Int[Tensor, " visit"]:
    """The rows of a modality's inputs that these visits have."""
    return data.stored_rows[_having(data, name), data.names.index(name)]


def _observed(data: VisitData) -> list[str]:
    """The modalities that any of these visits has."""
    return [name for name in data.names if bool(_having(data, name).any())]
