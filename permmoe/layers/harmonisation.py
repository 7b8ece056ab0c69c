"""What sites' scanners add to images, told from sums over sites, and taken out of them: ComBat in a federation.

The model of a feature y (a cell of a volume, a column of a table) of visit j at site i, with covariates x (Johnson et
al. 2007; Fortin et al. 2018; in federations d-ComBat, arXiv 2203.07313, and Fed-ComBat):

    y_ij = α + x_ij β + σ (γ_i + δ_i ε_ij),    γ_i ~ N(0, τ²),    δ_i² ~ inverse gamma of mean 1 and variance ν

| shared by all sites, from sums over sites | kept at the site |
|---|---|
| β from products inside sites, so that no site's shift is taken for an effect of age or severity | γ_i |
| α, and σ² from what β leaves inside sites | δ_i |
| τ² and ν, from how sites' means and variances differ beyond chance | |

τ² and ν are one number each for a modality, means over its features in units of σ. The site's own two estimates are
shrunk by them, and y becomes α + xβ + (y − α − xβ − σγ_i) / δ_i. No outcome is read, so that a hospital that never
trained tells its own γ and δ from its images.

Each shared number is a mean over visits: a federation sets it by averaging the sites' by their numbers of visits
(permmoe.federated.modules), plainly or in the secure sum. How many sites there are is not among them, so that τ² and ν
divide by all of them, as maximum likelihood does: a little too small where sites are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.layers.encoders import Standardise
from permmoe.layers.input_kinds import INPUT_KINDS, Unstandardised

SMALLEST_VARIANCE = 1e-6
"""Features with a smaller share of the modality's largest variance are constant but for rounding; they stay."""
MOST_STEPS, CLOSE_ENOUGH = 100, 1e-8
"""Of the iteration between γ and δ."""

Values = Float64[Tensor, "visit feature"]
Covariates = Float64[Tensor, "visit covariate"]


@dataclass(frozen=True)
class Shared:
    """What all sites share of one modality."""

    intercept: Float64[Tensor, " feature"]
    """α, where covariates are zero."""
    slopes: Float64[Tensor, "covariate feature"]
    deviation: Float64[Tensor, " feature"]
    """σ; zero where the feature is constant."""
    shift_variance: float
    """τ², in units of σ²."""
    scale_variance: float
    """ν: the variance of δ² over sites; its mean is 1."""

    @property
    def varies(self) -> Bool[Tensor, " feature"]:
        """Which features are more than constant."""
        return self.deviation > 0

    def expected(self, covariates: Covariates) -> Values:
        """α + xβ: what the features are at a site like the mean of all."""
        return self.intercept + covariates @ self.slopes


@dataclass(frozen=True)
class SiteEffect:
    """What one site's scanner adds to one modality."""

    shift: Float64[Tensor, " feature"]
    """γ, in units of σ."""
    scale: Float64[Tensor, " feature"]
    """δ, above zero."""


class SiteMoments(nn.Module):
    """Of one modality: what a site knows of its features and covariates, as means over visits; all zero until set."""

    def __init__(self, covariates: int, features: int) -> None:
        super().__init__()
        sizes = {
            "covariates": (covariates,), "features": (features,),
            # Products of what differs from the site's mean, and of the site's means.
            "within_covariates": (covariates, covariates), "within_mixed": (covariates, features),
            "within_features": (features,),
            "between_covariates": (covariates, covariates), "between_mixed": (covariates, features),
            "between_features": (features,),
            # What the site's own slopes leave of each feature, and the unbiased square of its true value.
            "variance": (features,), "squared_variance": (features,),
            "inverse_visits": (1,),
        }  # fmt: skip
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size), requires_grad=False))

    @torch.no_grad()
    def set_from(self, values: Values, covariates: Covariates) -> None:
        """The moments of a site with these visits, of which there are more than covariates and two."""
        n, freedom = len(values), len(values) - 1 - covariates.shape[1]
        mean_x, mean_y = covariates.mean(0), values.mean(0)
        x, y = covariates - mean_x, values - mean_y
        left = (y - x @ _solved(x.T @ x / n, x.T @ y / n)).square().sum(0) / freedom
        found = {
            "covariates": mean_x, "features": mean_y,
            "within_covariates": x.T @ x / n, "within_mixed": x.T @ y / n, "within_features": y.square().mean(0),
            "between_covariates": torch.outer(mean_x, mean_x), "between_mixed": torch.outer(mean_x, mean_y),
            "between_features": mean_y.square(),
            # Of a variance s² with f degrees of freedom, s⁴ f / (f + 2) estimates σ⁴ without bias.
            "variance": left, "squared_variance": left.square() * freedom / (freedom + 2),
            "inverse_visits": torch.tensor([1 / n]),
        }  # fmt: skip
        for name, value in found.items():
            self.get_parameter(name).copy_(value)

    def shared(self) -> Shared | None:
        """What follows from the moments of all sites; None where no site has set them."""
        of = {name: parameter.detach().double().cpu() for name, parameter in self.named_parameters()}
        sites_per_visit = float(of["inverse_visits"])
        if not 0 < sites_per_visit < 1:
            return None
        slopes = _solved(of["within_covariates"], of["within_mixed"])
        inside = (of["within_features"] - (slopes * of["within_mixed"]).sum(0)) / (1 - sites_per_visit)
        varies = inside > SMALLEST_VARIANCE * inside.max().clamp(min=1e-12)
        mixed = of["between_mixed"] - torch.outer(of["covariates"], of["features"])
        own = of["between_covariates"] - torch.outer(of["covariates"], of["covariates"])
        between = (of["between_features"] - of["features"].square()) - 2 * (slopes * mixed).sum(0)
        between += (slopes * (own @ slopes)).sum(0)
        spread = of["squared_variance"] / of["variance"].square() - 1
        return Shared(
            intercept=of["features"] - of["covariates"] @ slopes,
            slopes=slopes,
            deviation=torch.where(varies, inside, 0.0).sqrt(),
            shift_variance=_mean_above_zero((between / inside)[varies] - sites_per_visit),
            scale_variance=_mean_above_zero(spread[varies]),
        )


class Harmonisation(nn.Module):
    """The shared numbers of every modality, and what follows from them for a site's own visits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.harmonisation is None:
            raise ValueError("the model's configuration has no harmonisation")
        self.config = config.harmonisation
        scales = [(c.mean, c.deviation) for c in self.config.covariates]
        scales.insert(0, (config.baseline_centre_points, config.baseline_scale_points))
        self.covariate_scales = torch.tensor(scales, dtype=torch.float64)
        n_covariates = 1 + len(self.config.covariates)
        shapes = {m.name: INPUT_KINDS[m.kind].shape(m, config) for m in config.modalities}
        sizes = {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}
        self.moments = nn.ModuleDict({name: SiteMoments(n_covariates, size) for name, size in sizes.items()})
        # Columns in units of their declared spread: in fixed point and in 32 bits all are as exact.
        self.scaled = nn.ModuleDict({m.name: Standardise(m) for m in config.modalities if m.has_columns})
        self.unscaled = nn.ModuleDict({m.name: Unstandardised(m) for m in config.modalities if m.has_columns})

    def scaled_covariates(self, numbers: Covariates) -> Covariates:
        """The score at the visit and the configuration's covariates, in multiples of what patients differ by."""
        scaled: Tensor = (numbers - self.covariate_scales[:, 0]) / self.covariate_scales[:, 1]
        return scaled

    def values(self, name: str, inputs: Float[Tensor, "visit ..."]) -> Values:
        """A modality's inputs, as a batch holds them, as features."""
        scaled = self.scaled[name](inputs.double()) if name in self.scaled else inputs.double()
        flat: Tensor = scaled.flatten(1)
        return flat

    def inputs(self, name: str, values: Values, like: Float[Tensor, "visit ..."]) -> Float[Tensor, "visit ..."]:
        """The inverse of `values`; `like` are inputs of the shape that is wanted."""
        unscaled: Tensor = self.unscaled[name](values) if name in self.unscaled else values.float()
        return unscaled.view_as(like)

    def moments_of(self, name: str) -> SiteMoments:
        """The moments of a modality."""
        moments = self.moments[name]
        assert isinstance(moments, SiteMoments)
        return moments

    def effect(self, shared: Shared, values: Values, covariates: Covariates) -> SiteEffect:
        """γ and δ of the site that these visits are of, shrunk: ComBat's conditional means, iterated."""
        varies, n = shared.varies, len(values)
        deviation = torch.where(varies, shared.deviation, 1.0)
        left = (values - shared.expected(covariates)) / deviation
        mean = left.mean(0)
        squares = (left - mean).square().sum(0)
        shift, variance = torch.zeros_like(mean), torch.ones_like(mean)
        for _ in range(MOST_STEPS):
            before = shift
            shift = n * shared.shift_variance * mean / (n * shared.shift_variance + variance)
            if self.config.is_scaled:
                variance = _shrunk_variance(squares + n * (mean - shift).square(), n, shared.scale_variance)
            if float((shift - before).abs().max()) < CLOSE_ENOUGH:
                break
        return SiteEffect(torch.where(varies, shift, 0.0), torch.where(varies, variance, 1.0).sqrt())

    @staticmethod
    def without(shared: Shared, effect: SiteEffect, values: Values, covariates: Covariates) -> Values:
        """The values as a site like the mean of all would have measured them."""
        expected = shared.expected(covariates)
        return expected + (values - expected - shared.deviation * effect.shift) / effect.scale


def _shrunk_variance(squares: Float64[Tensor, " feature"], n: int, variance: float) -> Float64[Tensor, " feature"]:
    """δ² from the sum of squares of n visits and the inverse gamma of mean 1 and this variance; 1 where that is 0."""
    if variance == 0:
        return torch.ones_like(squares)
    shape = 2 + 1 / variance
    return (shape - 1 + squares / 2) / (n / 2 + shape - 1)


def _solved(
    matrix: Float64[Tensor, "covariate covariate"], answer: Float64[Tensor, "covariate feature"]
) -> Float64[Tensor, "covariate feature"]:
    """The slopes; of a covariate that does not vary, zero."""
    scale = matrix.diagonal().sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    correlation = inverse[:, None] * matrix * inverse
    solution: Tensor = torch.linalg.pinv(correlation, rtol=1e-6, hermitian=True) @ (inverse[:, None] * answer)
    return inverse[:, None] * solution


def _mean_above_zero(values: Float64[Tensor, " feature"]) -> float:
    """The mean over features, not below zero; 0 where there is none."""
    mean = float(values.mean()) if len(values) else 0.0
    return max(mean, 0.0) if isfinite(mean) else 0.0
