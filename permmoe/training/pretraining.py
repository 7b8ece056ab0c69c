"""Masked reconstruction: encoders learn from scans alone, whether or not their outcome is known.

Of each scan some blocks of cells are hidden. What is left becomes tokens, and the hidden cells are read back off them:

    x̂ = g Wᵀ (W x̃ + b),   g = n / (T d),

with x the n centred cells, x̃ those that are left, scaled up by their share as in dropout, and W the encoder's own map
to T tokens of width d. The way back is the map itself, transposed (tied weights: Vincent et al. 2010, JMLR 11), so that
there is no decoder to keep, to send or to average: a federation pretrains by the modules that it has. With g tokens
keep the scale that they start with. `is_across` has each scan also predict the other scans of its visit, through their
own maps, as if the tokens of all modalities spoke of one thing.

The loss of a prediction is its squared error over the squared cells: 1 is as good as the mean scan, whatever the unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.config import ModelConfig, PretrainingConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.layers.encoders import Shape, TokenEncoder, pooled_cells
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of
from permmoe.training.exposure import Exposure, TrainingRecord
from permmoe.training.seeds import derive_seed

LEAST_SQUARES = 1e-10
"""Keeps the loss of cells that are all at their mean finite."""
Hidden = Mapping[str, Bool[Tensor, "n cell"]]
"""By modality: the cells that are hidden of each visit that has it, in batch order."""


def pretrained_modalities(config: ModelConfig) -> tuple[str, ...]:
    """The modalities whose encoders are pretrained: all volumes."""
    return tuple(modality.name for modality in config.modalities if not modality.has_columns)


def pretrain(
    model: PerMMoE, scans: VisitData, config: PretrainingConfig, *, first_epoch: int, epochs: int, seed: int
) -> TrainingRecord:
    """Train the encoders of volumes in place for some epochs; the means of their inputs have been set, and stay.

    Order and hidden blocks of an epoch follow from the seed and its number. Every call begins with a fresh optimiser.
    The record's loss is summed over the visits of the last epoch that have a scan; without any nothing is trained.
    Raises FloatingPointError where the loss stops being a number.
    """
    names = pretrained_modalities(model.config)
    columns = [scans.names.index(name) for name in names]
    rows = scans.observed[:, columns].any(1).nonzero().flatten()
    device = device_of(model)
    moved = [p for name in names for p in model.encoders[name].parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moved, lr=config.learning_rate, weight_decay=0.0)
    loss_sum = 0.0
    for epoch in range(first_epoch, first_epoch + epochs) if len(rows) else ():
        loss_sum = 0.0
        generator = torch.Generator().manual_seed(derive_seed(seed, "pretraining", epoch))
        for part in torch.split(rows[torch.randperm(len(rows), generator=generator)], config.batch_size):
            batch = scans.batch(part)
            hidden = hidden_cells(model.config, batch, config, generator)
            optimiser.zero_grad()
            loss = reconstruction_loss(model, batch.to(device), {n: h.to(device) for n, h in hidden.items()}, config)
            points = loss.item()
            if not isfinite(points):
                raise FloatingPointError(f"the loss of the pretraining became {points} in epoch {epoch}")
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss_sum += points * len(part)
    counts = {name: float(scans.observed[:, column].sum()) for name, column in zip(names, columns, strict=True)}
    exposure = Exposure(0.0, counts, {}, {}, torch.zeros(model.config.experts))
    return TrainingRecord(exposure, loss_sum, len(rows), behind=exposure)


def hidden_cells(config: ModelConfig, batch: Batch, how: PretrainingConfig, generator: torch.Generator) -> Hidden:
    """What is hidden of the batch's scans: each block of cells by itself with the chance `how.hidden`."""
    cells = pooled_cells(config)
    blocks: Shape = (-(-cells[0] // how.block), -(-cells[1] // how.block), -(-cells[2] // how.block))
    found: dict[str, Tensor] = {}
    for name in pretrained_modalities(config):
        if n := len(batch.inputs.get(name, ())):
            drawn = torch.rand(n, *blocks, generator=generator) < how.hidden
            for axis in (1, 2, 3):
                drawn = drawn.repeat_interleave(how.block, axis)
            found[name] = drawn[:, : cells[0], : cells[1], : cells[2]].flatten(1)
    return found


def reconstruction_loss(model: PerMMoE, batch: Batch, hidden: Hidden, how: PretrainingConfig) -> Float[Tensor, ""]:
    """The mean over all predictions, of a modality's hidden cells and, across, of other modalities' scans.

    `hidden` names the modalities of the batch that are encoded.
    """
    names = model.config.names
    encoders = {name: _encoder(model, name) for name in hidden}
    scans = {name: encoder.features(batch.inputs[name]).flatten(1) for name, encoder in encoders.items()}
    tokens = {name: encoders[name].project(scans[name] * ~hidden[name] / (1 - how.hidden)) for name in hidden}
    losses = [
        _unexplained(_read_back(tokens[name], encoders[name]) - scans[name], scans[name], hidden[name])
        for name in hidden
    ]
    for source in hidden if how.is_across else ():
        of_source = batch.observed[:, names.index(source)]
        for other in hidden:
            of_other = batch.observed[:, names.index(other)]
            if other == source or not bool((of_source & of_other).any()):
                continue
            # Of the rows of visits that have the one, those of visits that have the other, too.
            predicted = _read_back(tokens[source][of_other[of_source]], encoders[other])
            scan = scans[other][of_source[of_other]]
            losses.append(_unexplained(predicted - scan, scan, torch.ones_like(scan, dtype=torch.bool)))
    return torch.stack(losses).mean()


def _read_back(tokens: Float[Tensor, "n token"], encoder: TokenEncoder) -> Float[Tensor, "n cell"]:
    """Cells, as differences from the mean scan, from the tokens of a visit laid end to end."""
    weight = encoder.project.weight
    return weight.shape[1] / weight.shape[0] * tokens @ weight


def _unexplained(
    error: Float[Tensor, "n cell"], scan: Float[Tensor, "n cell"], chosen: Bool[Tensor, "n cell"]
) -> Float[Tensor, ""]:
    return (error * chosen).square().sum() / (scan * chosen).square().sum().clamp(min=LEAST_SQUARES)


def _encoder(model: PerMMoE, name: str) -> TokenEncoder:
    encoder = model.encoders[name]
    assert isinstance(encoder, TokenEncoder)
    return encoder
