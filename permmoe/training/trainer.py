"""Fitting a model to visits: whole passes over them, each pass reproducible by itself.

Every random choice of an epoch (order, modality dropout, dropout, router noise) comes from one seed made of the run's
seed and the epoch's number, so that a run resumed after epoch e continues exactly as if it had never stopped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf, isfinite, sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from permmoe.config import ModelConfig, TrainConfig
from permmoe.data.batch import observed_masks
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import ErrorSums, combination_sums, mean_squared_error
from permmoe.layers.encoders import Centred
from permmoe.model import PerMMoE
from permmoe.runtime.devices import has_tiles, seeded
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.training.losses import WHOLE, Shares, total_loss

READ_AT_ONCE = 64
"""Visits read at a time while inputs are averaged."""


@dataclass(frozen=True)
class Exposure:
    """How much training each part of a model saw, in visits an epoch, modality dropout counted as it happened."""

    visits: float
    observed: Mapping[str, float]
    """For each modality, visits in which it was observed."""
    imputed: Mapping[str, float]
    """For each modality, visits in which the missing bank stood in for it."""
    patterns: Mapping[int, float]
    """For each observed set (a bit mask), visits with exactly that set."""
    expert_mass: Float[Tensor, " expert"]
    """Gate mass that each expert received, in visits: the tokens of one visit share a mass of 1."""
    measured: Mapping[int, float] = field(default_factory=dict)
    """For each observed set, visits whose moments the ridge was set from; empty where only gradients were followed."""


@dataclass(frozen=True)
class EpochsRecord:
    """What some epochs of training did."""

    exposure: Exposure
    loss_sum: float
    """Total loss (squared points, auxiliary losses included) summed over the visits of the last epoch."""
    visits: int


@dataclass(frozen=True)
class FitState:
    """All that a fit needs to go on after epoch `epoch` as if it had never stopped."""

    epoch: int
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    """Running mean of the weights over epochs; empty where there is none."""
    best_weights: Mapping[str, Tensor]
    """What the fit would end with: of the best validation so far or, at `keep: last`, of this epoch."""
    best_epoch: int
    best_mse: float
    optimiser: Mapping[str, Tensor]
    """AdamW's moments and step counts, named `<parameter>/<moment>`."""


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch."""

    epoch: int
    loss: float
    """Mean training loss a visit."""
    validation: Mapping[str, ErrorSums]
    """By combination; empty in an epoch without a validation."""
    state: FitState

    @property
    def validation_rmse(self) -> float:
        """Root of the squared error averaged over combinations, points; NaN without validation visits."""
        return sqrt(mean_squared_error(self.validation))


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, the same on every machine."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_model(config: ModelConfig, seed: int) -> PerMMoE:
    """A freshly initialised model; the same seed gives the same weights and leaves the global generator alone."""
    with seeded(derive_seed(seed, "initial weights")):
        return PerMMoE(config)


def make_optimiser(model: PerMMoE, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; weight decay spares biases, norms and single vectors."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def train_epochs(
    model: PerMMoE,
    data: VisitData,
    config: TrainConfig,
    *,
    first_epoch: int,
    epochs: int,
    seed: int,
    proximal_weight: float = 0.0,
    optimiser: torch.optim.Optimizer | None = None,
    drift: Mapping[str, Tensor] | None = None,
) -> EpochsRecord:
    """Train in place for some epochs, numbered from `first_epoch` (0 is the first of the whole study).

    `proximal_weight` is FedProx's μ, against the weights at the time of the call. `drift`, by parameter name, is added
    to the parameters in equal parts after each step (SCAFFOLD's correction, whatever the optimiser). Without
    `optimiser` a fresh one is made, as a federation's stateless sites do. A step adds up the gradients of its
    micro-batches, each weighed by its share of what each loss is a mean over. Raises ValueError for no visits and
    FloatingPointError where the loss or its gradient stops being finite, before the step that would spread it.
    """
    if len(data) == 0:
        raise ValueError("no visit to train on")
    if device_of(model).type == "cpu":
        # Without tiles convolutions take so long that clearing pages does not matter, measured.
        keep_freed_pages(without_limit=model.config.encoder.kind != "pooled" and has_tiles())
    optimiser = optimiser or make_optimiser(model, config)
    anchor = [p.detach().clone() for p in model.parameters()] if proximal_weight else []
    n_steps = epochs * -(-len(data) // config.batch_size)
    nudges = [(p, drift[name] / n_steps) for name, p in model.named_parameters() if name in drift] if drift else []
    tally = _Tally(data, model)
    loss_sum = 0.0
    model.train()
    for epoch in range(first_epoch, first_epoch + epochs):
        loss_sum = 0.0
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        by_size = config.warmup_order if epoch < config.warmup_epochs else None
        order = epoch_order(data.observed, generator, by_size)
        withheld = modality_dropout(data.observed, config.modality_dropout, generator)
        observed = data.observed & ~withheld
        steps = torch.split(order, config.batch_size)
        parts_of = [torch.split(rows, config.micro_batch or len(rows)) for rows in steps]
        batches = data.batches([part for parts in parts_of for part in parts], withheld)
        with seeded(derive_seed(seed, "noise", epoch), device_of(model)):
            for rows, parts in zip(steps, parts_of, strict=True):
                optimiser.zero_grad()
                for part in parts:
                    batch = next(batches).to(device_of(model))
                    shares = Shares.of(observed[part], observed[rows]) if len(part) < len(rows) else WHOLE
                    with autocast(model, config):
                        output = model(batch, recompute=config.checkpoint_encoders)
                        loss = total_loss(output, batch, config, shares)
                    for parameter, start in zip(model.parameters(), anchor, strict=False):
                        loss = loss + shares.visits * proximal_weight / 2 * (parameter - start).square().sum()
                    points = loss.item()
                    if not isfinite(points):
                        raise FloatingPointError(f"the training loss became {points} in epoch {epoch}")
                    loss.backward()  # type: ignore[no-untyped-call]
                    loss_sum += points * len(rows)
                    tally.add(observed[part], output.routing.gates)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_norm)
                if not torch.isfinite(norm):
                    raise FloatingPointError(f"the gradient's norm became {norm.item()} in epoch {epoch}")
                optimiser.step()
                with torch.no_grad():
                    for parameter, nudge in nudges:
                        parameter.add_(nudge)
    return EpochsRecord(tally.exposure(epochs), loss_sum, len(data))


@torch.no_grad()
def set_means(model: PerMMoE, data: VisitData) -> EpochsRecord:
    """Set what is a mean over visits: the centre of every encoder that has one, and the ridge's moments.

    The record's exposure says how many visits each mean is over, so that a federation weights the sites' means as it
    weights their training, and ends with the mean over all sites' visits.
    """
    counts = {name: int(n) for name, n in zip(data.names, data.observed.sum(0).tolist(), strict=True)}
    features: dict[str, Tensor] = {}
    rows_of = {name: data.observed[:, column].nonzero().squeeze(1) for column, name in enumerate(data.names)}
    for name, rows in rows_of.items():
        centred = [m for m in model.encoders[name].modules() if isinstance(m, Centred)]
        if not len(rows) or not (centred or model.ridge):
            continue
        total, coarse = torch.zeros(1, dtype=torch.float64), []
        for part in torch.split(rows, READ_AT_ONCE):
            inputs = data.batch(part).inputs[name]
            if centred:
                total = total + inputs.double().sum(0)
            if model.ridge:
                coarse.append(model.ridge.features(name, inputs.to(device_of(model))).cpu())
        if centred:
            centred[0].centre.copy_(total / len(rows))
        if coarse:
            features[name] = torch.cat(coarse)
    measured: dict[int, float] = {}
    if model.ridge:
        model.ridge.set_moments(features, rows_of, data.baseline, data.target)
        measured = {mask: float(n) for mask, n in Counter(observed_masks(data.observed).tolist()).items()}
    no_mass = torch.zeros(model.config.experts)
    exposure = Exposure(0.0, {name: float(n) for name, n in counts.items()}, {}, {}, no_mass, measured)
    return EpochsRecord(exposure, 0.0, len(data))


def fit(
    model: PerMMoE,
    train: VisitData,
    validation: VisitData,
    config: TrainConfig,
    *,
    resume: FitState | None = None,
    is_centred: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> FitState:
    """Train in place until `config.epochs` or, with patience, until validation stops improving.

    The model ends with the weights that `config.keep` names: of the best validation epoch (the last one where there are
    no validation visits) or of the last. With `averaging_decay` these are the running mean's. `is_centred`: the model
    brings the centres of its inputs along, and keeps them. `on_epoch` is called after each epoch with a state from
    which `resume` continues bitwise.
    """
    optimiser = make_optimiser(model, config)
    state = resume
    if state is None and not is_centred:
        set_means(model, train)
    elif state is not None:
        model.load_state_dict(dict(state.weights))
        _load_optimiser(optimiser, model, state.optimiser)
    best_mse, best_epoch = (state.best_mse, state.best_epoch) if state else (inf, -1)
    best: Mapping[str, Tensor] = state.best_weights if state else _snapshot(model)
    average: Mapping[str, Tensor] = state.average if state else {}
    for epoch in range(state.epoch + 1 if state else 0, config.epochs):
        if config.patience_epochs and best_epoch >= 0 and epoch - best_epoch > config.patience_epochs:
            break
        record = train_epochs(model, train, config, first_epoch=epoch, epochs=1, seed=config.seed, optimiser=optimiser)
        weights = _snapshot(model)
        if config.averaging_decay and epoch >= config.warmup_epochs:
            average = running_mean(average, weights, config.averaging_decay)
        judged = average or weights
        sums: Mapping[str, ErrorSums] = {}
        is_validated = epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0
        if is_validated:
            model.load_state_dict(dict(judged))
            sums = combination_sums(model, validation)
            model.load_state_dict(weights)
        mse = mean_squared_error(sums)
        if config.keep == "last" or (is_validated and not mse >= best_mse):
            # A copy, since checkpoints refuse tensors that share memory.
            best_mse, best_epoch, best = mse, epoch, {name: value.clone() for name, value in judged.items()}
        state = FitState(epoch, weights, average, best, best_epoch, best_mse, _optimiser_tensors(optimiser, model))
        if on_epoch:
            on_epoch(EpochReport(epoch, record.loss_sum / record.visits, sums, state))
    if state is None:
        raise ValueError("nothing to train: no epoch was asked for")
    model.load_state_dict(dict(state.best_weights))
    return state


def running_mean(average: Mapping[str, Tensor], newest: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """Exponential mean of weights over epochs or rounds (Polyak and Juditsky 1992); a new name starts at its newest.

    Training goes on from the newest weights; the mean is steadier, because what a few visits' noise added cancels out.
    """
    return {
        name: average[name].lerp(value, 1 - decay) if name in average else value.clone()
        for name, value in newest.items()
    }


def epoch_order(
    observed: Bool[Tensor, "visit modality"],
    generator: torch.Generator,
    by_size: Literal["most_first", "fewest_first"] | None,
) -> Int[Tensor, " visit"]:
    """Visits in random order or, in the warm-up, by their number of modalities with ties in random order."""
    order = torch.randperm(len(observed), generator=generator)
    if by_size:
        order = order[observed[order].sum(1).argsort(descending=by_size == "most_first", stable=True)]
    return order


def modality_dropout(
    observed: Bool[Tensor, "visit modality"], rate: float, generator: torch.Generator
) -> Bool[Tensor, "visit modality"]:
    """Which observed modalities to withhold: each with chance `rate`, never all of a visit's."""
    withheld = observed & (torch.rand(observed.shape, generator=generator) < rate)
    keep_one = (observed & ~withheld).any(1, keepdim=True)
    return withheld & keep_one


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def autocast(model: PerMMoE, config: TrainConfig) -> AbstractContextManager[object]:
    """Mixed precision where the configuration asks for it or, at `auto`, where it was measured to be faster.

    That is on GPUs with bf16, and on CPUs with AMX tiles for the convolutional encoders; the pooled encoder's small
    products gain nothing. Elsewhere everything stays fp32.
    """
    device = device_of(model)
    wanted = config.precision == "bf16"
    if config.precision == "auto":
        if device.type == "cuda":
            wanted = torch.cuda.is_bf16_supported()
        else:
            wanted = model.config.encoder.kind != "pooled" and has_tiles()
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


class _Tally:
    """Counts exposure batch by batch: patterns where batches are made, mass where the model is."""

    def __init__(self, data: VisitData, model: PerMMoE) -> None:
        self.names = data.names
        self.masks = torch.zeros(1 << len(data.names), dtype=torch.float64)
        self.mass = torch.zeros(model.config.experts, dtype=torch.float64, device=device_of(model))

    def add(
        self,
        observed: Bool[Tensor, "batch modality"],
        gates: Float[Tensor, "batch modality token expert"],
    ) -> None:
        self.masks += torch.bincount(observed_masks(observed), minlength=len(self.masks))
        self.mass += gates.detach().double().sum((0, 1, 2)) / (gates.shape[1] * gates.shape[2])

    def exposure(self, epochs: int) -> Exposure:
        visits = {mask: float(n) / epochs for mask, n in enumerate(self.masks.tolist()) if n}
        seen = {name: sum(n for mask, n in visits.items() if mask >> j & 1) for j, name in enumerate(self.names)}
        total = sum(visits.values())
        imputed = {name: total - n for name, n in seen.items()}
        return Exposure(total, seen, imputed, visits, (self.mass / epochs).float().cpu())


def _snapshot(model: PerMMoE) -> dict[str, Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.state_dict().items()}


def _optimiser_tensors(optimiser: torch.optim.Optimizer, model: PerMMoE) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state[parameter].items()
    }


def _load_optimiser(optimiser: torch.optim.Optimizer, model: PerMMoE, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        optimiser.state[parameter][key] = value.clone().to(parameter.device)
