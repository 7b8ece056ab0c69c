"""A model's parameters as named modules, the units that sites are averaged by, and the support of each.

| module | parameters | support of a site |
|---|---|---|
| `encoder/<m>` | encoder of modality m, and its unimodal head | visits with m observed |
| `router/<m>` | W_m and its noise weights | visits with m observed, + κ × visits with m imputed |
| `router/shared` | Flex-MoE's only router | visits |
| `expert/<e>` | FFN_e | gate mass that tokens sent to expert e, visits |
| `bank/<P>/<m>` | B[P, m], where the bank has tokens | visits whose observed set is exactly P |
| `bank/<m>` | B[m] of an unconditioned bank | visits with m imputed |
| `cluster/<m>/<k>/<m'>` | C[m, k, m'] of a bank of clusters | visits with m in cluster k, and with m' |
| `trunk` | embeddings, attention, norms | visits |
| `head` | prediction head | visits |
| `spread` | the head of the spread, where there is one | visits |
| `ridge/<m>`, `ridge/<m>/<m'>` | moments of features | visits with m (and m') observed, in the centring round |
| `ridge/all-visits` | moments of baseline and outcome | visits, in the centring round |
| `harmonisation/<m>` | how sites' scanners differ in modality m | visits with m observed, in the harmonising round |
| `member-<i>/…` | any of these, of an ensemble's member i | none: an ensemble is judged, not trained |

Routers, experts, the bank and clusters are stacked in the model, so a module may be one slice of a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement
from math import fsum, prod

import torch
from jaxtyping import Float32
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.ensemble import Ensemble, Network
from permmoe.federated.federation_config import CLUSTERS
from permmoe.federated.member_modules import of_member
from permmoe.layers.missing_bank import WITHOUT_TOKENS
from permmoe.layers.moments import EVERYBODY, block_name
from permmoe.modality import bank_pairs, combination_name, combination_of
from permmoe.training.exposure import Exposure


@dataclass(frozen=True)
class ParameterSlice:
    """A whole parameter, or its slice at `index` along the first dimension."""

    parameter: str
    shape: tuple[int, ...]
    index: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModuleLayout:
    """Which parameters make up which module; every element of every parameter belongs to exactly one."""

    slices: Mapping[str, tuple[ParameterSlice, ...]]
    """Module -> slices, both in the order in which the model declares its parameters."""
    shapes: Mapping[str, tuple[int, ...]]
    """Parameter -> shape."""

    @classmethod
    def of(cls, model: Network) -> ModuleLayout:
        """The layout of a model. Raises ValueError for a parameter that no module is declared for."""
        if isinstance(model, Ensemble):
            return cls.of(model.models[0]).for_members(len(model.models))
        slices: dict[str, list[ParameterSlice]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float32:
                raise ValueError(f"parameter {name} is {parameter.dtype}; federated parameters are float32")
            shapes[name] = tuple(parameter.shape)
            owners = _slice_owners(model.config, name)
            if owners is None:
                slices.setdefault(_owner(name), []).append(ParameterSlice(name, shapes[name]))
                continue
            for index, owner in enumerate(owners):
                slices.setdefault(owner, []).append(ParameterSlice(name, shapes[name][1:], index))
        return cls({module: tuple(found) for module, found in slices.items()}, shapes)

    def for_members(self, members: int) -> ModuleLayout:
        """The layout of so many models of this one's as an `Ensemble`; of a single one this layout itself."""
        if members == 1:
            return self
        slices = {
            of_member(i + 1, module): tuple(replace(one, parameter=f"members.{i}.{one.parameter}") for one in own)
            for i in range(members)
            for module, own in self.slices.items()
        }
        shapes = {f"members.{i}.{name}": shape for i in range(members) for name, shape in self.shapes.items()}
        return ModuleLayout(slices, shapes)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self.slices)

    def size(self, module: str) -> int:
        """Number of elements of a module. Raises KeyError for an unknown one."""
        return self._sizes[module]

    @cached_property
    def _sizes(self) -> Mapping[str, int]:
        return {module: sum(piece.size for piece in slices) for module, slices in self.slices.items()}

    def flatten(self, state: Mapping[str, Tensor], module: str) -> Float32[Tensor, " n"]:
        """A module's parameters laid end to end; a copy, on the CPU."""
        pieces = [state[p.parameter] if p.index is None else state[p.parameter][p.index] for p in self.slices[module]]
        return torch.cat([piece.detach().reshape(-1) for piece in pieces]).cpu()

    def flatten_all(self, state: Mapping[str, Tensor]) -> dict[str, Float32[Tensor, " n"]]:
        """Every module of a state dict."""
        return {module: self.flatten(state, module) for module in self.slices}

    def unflatten(self, modules: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of all modules; parameters that are not stacked are views of them.

        Raises KeyError where one is absent, ValueError where a size is wrong.
        """
        pieces: dict[str, dict[int | None, Tensor]] = {name: {} for name in self.shapes}
        for module, slices in self.slices.items():
            flat = modules[module]
            if flat.shape != (self.size(module),):
                raise ValueError(f"module {module} has shape {tuple(flat.shape)}, expected ({self.size(module)},)")
            for own, piece in zip(slices, torch.split(flat, [s.size for s in slices]), strict=True):
                pieces[own.parameter][own.index] = piece
        # A bank of a single modality has no rows, and cat refuses an empty list.
        none = torch.empty(0)
        return {
            name: (own[None] if None in own else torch.cat([none, *(own[i] for i in range(len(own)))])).view(shape)
            for (name, shape), own in zip(self.shapes.items(), pieces.values(), strict=True)
        }


def kind_of(module: str) -> str:
    """What a module's name begins with, such as `router` of `router/t1`."""
    return module.partition("/")[0]


def module_support(config: ModelConfig, exposure: Exposure, imputed_router_support: float = 0.0) -> dict[str, float]:
    """The support of every module at a site, in visits; the table above, with κ = `imputed_router_support`."""
    support = {"trunk": exposure.visits, "head": exposure.visits}
    for name in config.names:
        support[f"encoder/{name}"] = exposure.observed.get(name, 0.0)
        if config.routers == "per_modality":
            support[f"router/{name}"] = exposure.observed.get(
                name, 0.0
            ) + imputed_router_support * exposure.imputed.get(name, 0.0)
    if config.routers == "shared":
        support["router/shared"] = exposure.visits
    if config.spread != "none":
        support["spread"] = exposure.visits
    if config.ridge:
        support |= _ridge_support(config.names, exposure.measured)
    if config.harmonisation:
        support |= {f"harmonisation/{name}": exposure.scanned.get(name, 0.0) for name in config.names}
    support |= {f"expert/{e}": mass for e, mass in enumerate(exposure.expert_mass.tolist())}
    if config.bank == "unconditioned":
        return support | {f"bank/{name}": exposure.imputed.get(name, 0.0) for name in config.names}
    if config.bank == "clusters":
        centres = _cluster_names(config, config.names)
        visits = [0.0] * len(centres) if exposure.clustered is None else exposure.clustered.tolist()
        return support | dict(zip(centres, visits, strict=True))
    if config.bank in WITHOUT_TOKENS:
        return support
    return support | {
        _bank_name(config.names, mask, missing): exposure.patterns.get(mask, 0.0)
        for mask, missing in bank_pairs(len(config.names))
    }


# Asked for at every message, on both sides.
@lru_cache(maxsize=256)
def reachable_modules(config: ModelConfig, names: tuple[str, ...], members: int = 1) -> frozenset[str]:
    """The modules that a site whose visits have only these modalities can make use of, of so many members.

    Encoders of other modalities, and what stands for a modality beside an observed set that no visit can have, play no
    part in its passes. Routers and experts all do: imputed tokens go through them too, but for a model without a bank,
    whose routers of other modalities play none. Where the others are translated, their encoders and moments do; where
    they are completed from clusters, what the site's own modalities' clusters say of the others.
    """
    if members > 1:
        own = reachable_modules(config, names)
        return frozenset(of_member(i + 1, module) for i in range(members) for module in own)
    found = {"trunk", "head"} | {f"expert/{e}" for e in range(config.experts)}
    encoded = config.names if config.bank == "translated" else tuple(name for name in config.names if name in names)
    routed = encoded if config.bank == "none" else config.names
    found |= {f"encoder/{name}" for name in encoded}
    found |= {f"harmonisation/{name}" for name in names} if config.harmonisation else set()
    found |= {"spread"} if config.spread != "none" else set()
    found |= {"router/shared"} if config.routers == "shared" else {f"router/{name}" for name in routed}
    if config.ridge:
        pairs = combinations_with_replacement(encoded, 2)
        found |= {f"ridge/{EVERYBODY}"} | {f"ridge/{block_name(a, b)}" for a, b in pairs}
    if config.bank == "clusters":
        return frozenset(found | set(_cluster_names(config, encoded)))
    if config.bank in WITHOUT_TOKENS:
        return frozenset(found)
    if config.bank == "unconditioned":
        return frozenset(found | {f"bank/{name}" for name in config.names})
    return frozenset(
        found
        | {
            _bank_name(config.names, mask, missing)
            for mask, missing in bank_pairs(len(config.names))
            if set(combination_of(mask, config.names)) <= set(names)
        }
    )


def _ridge_support(names: Sequence[str], measured: Mapping[int, float]) -> dict[str, float]:
    """Visits that each block of the ridge's moments is a mean over."""
    support = {f"ridge/{EVERYBODY}": fsum(measured.values())}
    for i, j in combinations_with_replacement(range(len(names)), 2):
        both = 1 << i | 1 << j
        support[f"ridge/{block_name(names[i], names[j])}"] = fsum(n for p, n in measured.items() if p & both == both)
    return support


def _slice_owners(config: ModelConfig, parameter: str) -> list[str] | None:
    """The modules that a stacked parameter's slices belong to, in order; None for a parameter that is not stacked."""
    match parameter.split(".")[0]:
        case "routers" if config.routers == "shared":
            return ["router/shared"]
        case "routers":
            return [f"router/{name}" for name in config.names]
        case "experts":
            return [f"expert/{e}" for e in range(config.experts)]
        case "missing_bank":
            return _bank_names(config)
        case "clusters":
            return _cluster_names(config, config.names)
    return None


def _owner(parameter: str) -> str:
    """The module of a parameter that is not stacked."""
    match parameter.split("."):
        case ["encoders", modality, *_]:
            return f"encoder/{modality}"
        case ["unimodal_heads", modality, *_]:
            return f"encoder/{modality}"
        case ["ridge", "moments", block, *_]:
            return f"ridge/{block}"
        case ["harmonisation", "moments", modality, *_]:
            return f"harmonisation/{modality}"
        case ["attention", *_]:
            return "trunk"
        case ["head", *_]:
            return "head"
        case ["spread", *_]:
            return "spread"
    raise ValueError(f"parameter {parameter} belongs to no module; declare it in permmoe/federated/modules.py")


def _bank_names(config: ModelConfig) -> list[str]:
    """The bank's modules in the order of its rows."""
    if config.bank in WITHOUT_TOKENS:
        return []
    if config.bank == "unconditioned":
        return [f"bank/{name}" for name in config.names]
    return [_bank_name(config.names, mask, missing) for mask, missing in bank_pairs(len(config.names))]


def _cluster_names(config: ModelConfig, clustered: Sequence[str]) -> list[str]:
    """The modules of these modalities' clusters, in the order of their centres."""
    n_clusters = config.clusters.per_modality
    return [f"{CLUSTERS}{n}/{k}/{m}" for n in clustered for k in range(n_clusters) for m in config.names]


def _bank_name(names: Sequence[str], mask: int, missing: int) -> str:
    return f"bank/{combination_name(combination_of(mask, names))}/{names[missing]}"
