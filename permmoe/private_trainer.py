"""Training with differential privacy of a patient: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), through Opacus.

Each step draws every patient by itself with the same chance (Poisson sampling), clips the gradient that a patient's
visits cause, whole model at once, and adds Gaussian noise to the sum. Visits meet in nothing: the balance loss, which
compares the visits of a batch, is left out, and the specialisation loss is each visit's own.

Whoever knows the seed can draw the samples and the noise again and take them away: it must not come from the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.func import functional_call, grad, vmap

from permmoe.config import PrivacyConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.dense import DensePerMMoE, Inputs, dense_inputs
from permmoe.losses import specialisation_loss
from permmoe.model import PerMMoE
from permmoe.trainer import derive_seed, device_of, make_optimiser, modality_dropout

OPACUS_GRADIENTS = "grad_sample"
"""Where Opacus looks for the gradients of single patients, on each parameter."""
VISITS_AT_ONCE = 8
"""Whose gradients are in memory together: each takes as much as the model."""


@dataclass(frozen=True)
class PrivateRecord:
    """What a private training may tell: nothing that depends on a patient. Its losses are not here on purpose."""

    steps: int


def per_visit_gradients(model: PerMMoE, batch: Batch, config: TrainConfig) -> dict[str, Float[Tensor, "batch ..."]]:
    """The gradient of every visit's own loss (squared points plus λ × specialisation) for each trained parameter.

    Dropout and router noise are drawn for each visit by itself.
    """
    dense = DensePerMMoE(model)
    trained = {n: p.detach() for n, p in dense.named_parameters() if p.requires_grad}
    fixed = {n: p.detach() for n, p in dense.named_parameters() if not p.requires_grad} | dict(dense.named_buffers())

    def loss(
        parameters: Mapping[str, Tensor],
        inputs: Inputs,
        observed: Bool[Tensor, " modality"],
        baseline: Float[Tensor, ""],
        target: Float[Tensor, ""],
    ) -> Float[Tensor, ""]:
        prediction, routing = functional_call(dense, {**parameters, **fixed}, (inputs, observed, baseline))
        own = F.mse_loss(prediction, target)
        return own + config.auxiliary_weight * specialisation_loss(routing) if config.specialisation else own

    per_visit = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="different", chunk_size=VISITS_AT_ONCE)
    inputs = dense_inputs(batch, model.config)
    found: dict[str, Tensor] = per_visit(trained, inputs, batch.observed, batch.baseline, batch.target)
    return {name.removeprefix("model."): gradient for name, gradient in found.items()}


def train_privately(
    model: PerMMoE,
    data: VisitData,
    config: TrainConfig,
    privacy: PrivacyConfig,
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    seed: int,
) -> PrivateRecord:
    """Train in place. A patient's visits share one gradient, their mean, so that many visits weigh no more than one.

    `sample_rate`: chance of each patient to be in a step; the sum is divided by the EXPECTED number of patients, for
    the number that came is private. Raises ValueError for no visits.
    """
    if len(data) == 0:
        raise ValueError("no visit to train on")
    patients = _patients(data)
    n_patients = int(patients.max()) + 1
    generator = torch.Generator().manual_seed(derive_seed(seed, "samples"))
    optimiser = DPOptimizer(
        make_optimiser(model, config),
        noise_multiplier=noise_multiplier,
        max_grad_norm=privacy.max_gradient_norm,
        expected_batch_size=max(sample_rate * n_patients, 1e-9),
        generator=torch.Generator(device=device_of(model)).manual_seed(derive_seed(seed, "noise")),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "dropout"))
        for _ in range(steps):
            is_drawn = torch.rand(n_patients, generator=generator) < sample_rate
            rows = is_drawn[patients].nonzero().flatten()
            for parameter, gradient in zip(
                trained, _patient_gradients(model, data, rows, patients, config, generator), strict=True
            ):
                setattr(parameter, OPACUS_GRADIENTS, gradient)
            optimiser.step()
            optimiser.zero_grad()
    for parameter in trained:
        delattr(parameter, OPACUS_GRADIENTS)
    return PrivateRecord(steps)


def _patient_gradients(
    model: PerMMoE,
    data: VisitData,
    rows: Int[Tensor, " n"],
    patients: Int[Tensor, " visit"],
    config: TrainConfig,
    generator: torch.Generator,
) -> list[Float[Tensor, "patient ..."]]:
    """For each trained parameter the mean gradient of each drawn patient's visits; no rows where nobody was drawn."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not len(rows):
        return [p.new_zeros(0, *p.shape) for p in trained]
    withheld = modality_dropout(data.observed[rows], config.modality_dropout, generator)
    batch = data.batch(rows, withheld).to(device_of(model))
    gradients = per_visit_gradients(model, batch, config)
    _, place, n_visits = torch.unique(patients[rows], return_inverse=True, return_counts=True)
    means = []
    for gradient in gradients.values():
        weight = (1 / n_visits[place]).to(gradient).view(-1, *[1] * (gradient.ndim - 1))
        means.append(gradient.new_zeros(len(n_visits), *gradient.shape[1:]).index_add(0, place, gradient * weight))
    return means


def _patients(data: VisitData) -> Int[Tensor, " visit"]:
    """Each visit's patient, numbered from 0."""
    numbers = {name: i for i, name in enumerate(sorted({visit.subject_id for visit in data.visits}))}
    return torch.tensor([numbers[visit.subject_id] for visit in data.visits])
