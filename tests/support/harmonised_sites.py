"""Sites whose scanners were invented: each shifts and scales every feature, and nothing else differs between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from permmoe.config import Covariate, HarmonisationConfig, ModelConfig
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import VisitTable
from permmoe.layers.harmonisation import SiteMoments
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

AGE = Covariate(column="age_years", mean=73.0, deviation=7.0)
HARMONISATION = HarmonisationConfig(covariates=(AGE, Covariate(column="sex", mean=1.5, deviation=0.5)), least_visits=20)
CONFIG: ModelConfig = small_config(n_volumes=1, n_tables=2, harmonisation=HARMONISATION)
SLOPES = torch.tensor([0.7, -0.05, 0.4], dtype=torch.float64)
"""Of the score, the age and the sex, the same for every feature."""


@dataclass(frozen=True)
class Measured:
    """One site's features of one modality, and the covariates of the same visits."""

    values: Tensor
    covariates: Tensor


def measured(
    shifts: Tensor, scales: Tensor, n: int | Sequence[int], seed: int = 0, deviation: float = 0.5
) -> list[Measured]:
    """A site for each row of shifts γ and scales δ [site, feature]; `n` visits each. Patients differ over sites."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [n] * len(shifts) if isinstance(n, int) else list(n)
    found = []
    for i, (shift, scale, size) in enumerate(zip(shifts, scales, sizes, strict=True)):
        score = 4 * torch.rand(size, generator=generator, dtype=torch.float64) + i
        age = 70 + i + 6 * torch.randn(size, generator=generator, dtype=torch.float64)
        sex = 1 + torch.randint(2, (size,), generator=generator).double()
        covariates = torch.stack([score, age, sex], dim=1)
        noise = torch.randn(size, len(shift), generator=generator, dtype=torch.float64)
        values = 3 + (covariates @ SLOPES)[:, None] + deviation * (shift + scale * noise)
        found.append(Measured(values, covariates))
    return found


def averaged(sites: Sequence[Measured]) -> SiteMoments:
    """The moments of all sites, as a federation averages them by visits."""
    features, covariates = sites[0].values.shape[1], sites[0].covariates.shape[1]
    total = SiteMoments(covariates, features)
    visits = sum(len(site.values) for site in sites)
    with torch.no_grad():
        for site in sites:
            own = SiteMoments(covariates, features)
            own.set_from(site.values, site.covariates)
            for name, parameter in total.named_parameters():
                parameter.add_(own.get_parameter(name) * (len(site.values) / visits))
    return total


def site_of_visits(n: int, seed: int, shift: float = 0.0, *, config: ModelConfig = CONFIG) -> VisitData:
    """A site whose visits have every modality, an age and a sex; its inputs are moved by `shift`."""
    data = small_visits(config, n, seed, observed=torch.ones(n, len(config.modalities), dtype=torch.bool))
    visits = tuple(
        replace(visit, age_years=60.0 + (7 * i) % 31, covariates={"sex": 1.0 + i % 2}, split="train")
        for i, visit in enumerate(data.visits)
    )
    inputs = {name: MemoryRows(rows.read(torch.arange(n)) + shift) for name, rows in data.inputs.items()}
    return replace(data, visits=VisitTable(visits), inputs=inputs)
