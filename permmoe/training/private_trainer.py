"""Training with differential privacy of a patient: DP-SGD (Abadi et al. 2016, arXiv 1607.00133), through Opacus.

Each step draws every patient independently with the same chance (Poisson sampling), clips each patient's gradient as a
whole or module by module, and adds Gaussian noise to the sum. No term of the loss depends on two visits: the balance
loss, which compares the visits of a batch, is left out, and the specialisation loss is taken for each visit alone.

A party that knows the seed can draw the samples and the noise again and subtract them, so the seed must not come from
the study, and is written nowhere: a training that goes on from a point draws anew from there. Samples and noise of each
step are independent of all others, so that such a training is one of as many steps, as an undisturbed one is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from permmoe.config import PrivacyConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of, seeded
from permmoe.training.clipping import GradientBound, clipped_by_part
from permmoe.training.dense_pass import DensePerMMoE, Inputs, dense_inputs
from permmoe.training.epochs import modality_dropout
from permmoe.training.freezing import frozen
from permmoe.training.hardware import repeatable
from permmoe.training.losses import specialisation_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.point import PointKeeper, TrainingPoint, model_groups, put_back
from permmoe.training.seeds import derive_seed

OPACUS_GRADIENTS = "grad_sample"
"""The attribute of a parameter in which Opacus looks for the gradients of single patients."""
VISITS_AT_ONCE = 32
"""Visits whose gradients are in memory together; each visit's take as much as the model."""


def per_visit_gradients(
    model: PerMMoE, batch: Batch, config: TrainConfig, visits_at_once: int = VISITS_AT_ONCE
) -> dict[str, Float[Tensor, "batch ..."]]:
    """The gradient of every visit's own loss (squared points plus λ × specialisation) for each trained parameter.

    Dropout and router noise are drawn for each visit separately; how many are computed at a time changes which numbers
    are drawn, and else nothing.
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
        visit = tuple(x[None] for x in inputs), observed[None], baseline[None]
        output = functional_call(dense, {**parameters, **fixed}, visit)
        own = F.mse_loss(output.prediction[0], target)
        if config.specialisation:
            own = own + config.auxiliary_weight * specialisation_loss(output.routing, config.routing_losses)
        return own

    per_visit = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="different", chunk_size=visits_at_once)
    inputs = dense_inputs(batch, model.config)
    # The fused kernels have no batching rule: vmap would call them visit by visit.
    with sdpa_kernel(SDPBackend.MATH):
        observed = batch.observed.to(batch.baseline.device)
        found: dict[str, Tensor] = per_visit(trained, inputs, observed, batch.baseline, batch.target)
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
    patients: float,
    seed: int,
    trained: Collection[str] | None = None,
    bounds: Sequence[GradientBound] = (),
    visits_at_once: int = VISITS_AT_ONCE,
    point: TrainingPoint | None = None,
    keeper: PointKeeper | None = None,
) -> None:
    """Train in place. A visit is a patient here: a table of visits holds one index visit for each.

    `sample_rate` is the chance of each patient to be in a step, `patients` how many there are as far as it is known
    outside: by the number that it makes one expect in a step the sum is divided. The number that was drawn is private,
    and so is the true number of patients, which noise that is divided by it would tell.

    `trained` names the parameters that are trained, by default all; others have neither gradient nor noise. With
    `bounds` each part of a patient's gradient is clipped to its own, and all of it to `privacy.max_gradient_norm`.

    With a `point` only the steps behind it are made, with samples and noise that no step before it had, whatever the
    seed; `keeper` is offered such points. Raises ValueError for no visits, and for a part without a bound.
    """
    if len(data) == 0:
        raise ValueError("no visit to train on")
    done = point.step if point else 0
    if done:
        seed = derive_seed(seed, "behind step", done)
    generator = torch.Generator().manual_seed(derive_seed(seed, "samples"))
    own = make_optimiser(model, config)
    if point:
        put_back(point, model, own)
    still = [p for name, p in model.named_parameters() if trained is not None and name not in trained]
    model.train()
    with repeatable(config), seeded(derive_seed(seed, "dropout"), device_of(model)), frozen(still):
        moved = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        # It clips what has bounds of its own as a whole, too: should they be too large, the noise is still enough.
        optimiser = DPOptimizer(
            own,
            noise_multiplier=noise_multiplier,
            max_grad_norm=privacy.max_gradient_norm,
            expected_batch_size=max(sample_rate * patients, 1e-9),
            generator=torch.Generator(device=device_of(model)).manual_seed(derive_seed(seed, "noise")),
        )
        for step in range(done, steps):
            rows = (torch.rand(len(data), generator=generator) < sample_rate).nonzero().flatten()
            gradients = _gradients(model, data, rows, config, generator, visits_at_once)
            if bounds:
                gradients = clipped_by_part(gradients, bounds)
            for name, parameter in moved.items():
                setattr(parameter, OPACUS_GRADIENTS, gradients[name])
            optimiser.step()
            optimiser.zero_grad()
            if keeper and keeper.is_due():
                keeper.keep(TrainingPoint(0, step + 1, 0.0, visits_at_once, model_groups(model, own)))
        for parameter in moved.values():
            vars(parameter).pop(OPACUS_GRADIENTS, None)


def _gradients(
    model: PerMMoE,
    data: VisitData,
    rows: Int[Tensor, " n"],
    config: TrainConfig,
    generator: torch.Generator,
    visits_at_once: int,
) -> dict[str, Float[Tensor, "n ..."]]:
    """For each trained parameter the gradients of the drawn visits; no rows where no patient was drawn."""
    if not len(rows):
        return {name: p.new_zeros(0, *p.shape) for name, p in model.named_parameters() if p.requires_grad}
    withheld = modality_dropout(data.observed[rows], config.modality_dropout, generator)
    batch = data.batch(rows, withheld).to(device_of(model))
    return per_visit_gradients(model, batch, config, visits_at_once)
