"""A trained model as one graph: images on its grid in, change in the score out, for any combination of modalities.

In the graph are the normalisation of volumes, the pooling over cells, the centring, every combination's ridge, the
missing bank, and the limits of the score's scale. Not in it: reading files, finding the background, registration, skull
removal, resampling onto the grid (permmoe.preparation, permmoe.data.volumes), the checks that refuse an image, and
prediction intervals.

The sparse pass (permmoe.model) has shapes that depend on who has what. Here every modality is encoded for every visit,
every expert sees every token, and masks select, as in permmoe.training.dense_pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from permmoe.calibration.calibration import change_bounds
from permmoe.data.kinds import kind_of
from permmoe.ensemble import Ensemble, Network
from permmoe.errors import ConfigurationError
from permmoe.layers.encoders import Shape, pooled_cells
from permmoe.layers.ridge import CombinationRidge
from permmoe.modality import Modality
from permmoe.model import PerMMoE, only
from permmoe.training.dense_pass import dense_experts


class PortableModel(nn.Module):
    """A view of a model in evaluation mode. Its inputs are one tensor a modality, `observed` and `baseline`."""

    def __init__(self, network: Network) -> None:
        """Raises ConfigurationError for a model that translates missing modalities or completes them from clusters, or
        is told the horizon."""
        super().__init__()
        self.config = network.config
        if self.config.bank in ("translated", "clusters"):
            raise ConfigurationError(
                f"a model with bank = {self.config.bank} cannot be exported: the graph has no way to complete what is "
                "missing; export one with another bank"
            )
        if self.config.horizons_months:
            raise ConfigurationError(
                "a model that is told the horizon (model.horizons_months) cannot be exported: the graph has no such "
                "input; train one for the horizon alone"
            )
        models = network.models if isinstance(network, Ensemble) else (network,)
        self.members = nn.ModuleList(PortableMember(model) for model in models)
        # The whole of it: an exporter puts back the mode that it found, and the model's with it.
        self.eval()

    def forward(self, *inputs: Tensor) -> Float[Tensor, " batch"]:
        """The change at the horizon, in the score's unit: what `permmoe predict` says.

        `inputs`: for each modality in the model's order [batch, 1, x, y, z] on the grid, background 0, or
        [batch, column]; then `observed` [batch, modality] and `baseline` [batch]. Of what is not observed, any numbers.
        """
        found = [member(*inputs) for member in self.members]
        prediction: Tensor = found[0] if len(found) == 1 else torch.stack(found, dim=1).mean(1)
        baseline, (low, high) = inputs[-1], change_bounds(0.0, self.config)
        if isfinite(low):
            prediction = torch.maximum(prediction, low - baseline)
        if isfinite(high):
            prediction = torch.minimum(prediction, high - baseline)
        return prediction


class PortableMember(nn.Module):
    """One model's part: its inputs are the whole's, its prediction is not yet held to the score's scale."""

    bits: Tensor
    bank_rows: Tensor

    def __init__(self, model: PerMMoE) -> None:
        super().__init__()
        config = model.config
        self.model, self.config = model, config
        self.register_buffer("bits", torch.tensor([1 << j for j in range(len(config.names))]))
        self.register_buffer("bank_rows", model.missing_bank.rows.clamp(min=0))
        self.reads_cells = config.encoder.declaration.reads == "cells"
        self.stem = Pooling(config.grid.shape, pooled_cells(config)) if self.reads_cells else nn.Identity()
        self.ridge = (
            RidgeTable(model.ridge, config.modalities, pooled_cells(config) if self.reads_cells else config.grid.shape,
                       config.ridge.cells)
            if model.ridge and config.ridge else None
        )  # fmt: skip

    def forward(self, *inputs: Tensor) -> Float[Tensor, " batch"]:
        """The change that this model predicts, points."""
        *given, observed, baseline = inputs
        model, config = self.model, self.config
        rows = [self._read(modality, x) for modality, x in zip(config.modalities, given, strict=True)]
        encoded = torch.stack([model.encoders[m](x).float() for m, x in zip(config.names, rows, strict=True)], dim=1)
        mask = (observed.long() * self.bits).sum(1)
        imputed = model.missing_bank.table()[self.bank_rows[mask]]
        tokens = torch.where(observed[:, :, None, None], encoded, imputed)
        present = model.missing_bank.present(observed)
        hidden = model.attention(tokens, present)
        normed = model.attention.expert_norm(hidden)
        gates = model.routers(normed, observed, present).gates
        mixed = dense_experts(model.experts, normed.flatten(0, 2), gates.flatten(0, 2))
        prediction: Tensor = model.head(only(hidden + mixed.view_as(hidden), present), baseline)
        if self.ridge and config.ridge:
            linear = self.ridge(rows, observed, mask, baseline)
            prediction = prediction + config.ridge.share * (linear - prediction)
        if line := config.at_hospital:
            prediction = line.intercept + line.slope * prediction
        if config.outcome_range:
            prediction = prediction.clamp(*config.outcome_range)
        return prediction

    def _read(self, modality: Modality, given: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """A modality's input as a batch holds it (permmoe.data.batch)."""
        if not kind_of(modality).is_image:
            return given
        normal = standardised(given) if modality.normalisation == "zscore" else given
        pooled: Tensor = self.stem(normal)
        return pooled


def standardised(volumes: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch 1 x y z"]:
    """Mean 0 and SD 1 over the voxels that are not 0, as permmoe.data.volumes does; a volume of zeros stays one."""
    is_signal = volumes != 0
    values = volumes.double()
    n = is_signal.double().sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
    difference = torch.where(is_signal, values - values.sum((1, 2, 3, 4), keepdim=True) / n, 0.0)
    deviation = (difference.square().sum((1, 2, 3, 4), keepdim=True) / n).sqrt()
    return (difference / torch.where(deviation > 0, deviation, 1.0)).float()


class Pooling(nn.Module):
    """`adaptive_avg_pool3d` as a product with one matrix along each axis: ONNX has no other word for it."""

    x: Tensor
    y: Tensor
    z: Tensor

    def __init__(self, shape: Sequence[int], cells: Shape) -> None:
        super().__init__()
        for axis, n, m in zip("xyz", shape, cells, strict=True):
            self.register_buffer(axis, window_means(n, m))

    def forward(self, volumes: Float[Tensor, "batch 1 x y z"]) -> Float[Tensor, "batch 1 a b c"]:
        """Means over cells, in the precision of the volumes."""
        x, y, z = (matrix.to(volumes.dtype) for matrix in (self.x, self.y, self.z))
        pooled = torch.matmul(volumes, z.t())
        pooled = torch.matmul(pooled.transpose(3, 4), y.t()).transpose(3, 4)
        return torch.matmul(pooled.permute(0, 1, 3, 4, 2), x.t()).permute(0, 1, 4, 2, 3)


def window_means(n: int, cells: int) -> Float64[Tensor, "cells n"]:
    """The windows of adaptive pooling along one axis: cell i has the voxels from ⌊i·n/m⌋ to before ⌈(i+1)·n/m⌉."""
    matrix = torch.zeros(cells, n, dtype=torch.float64)
    for i in range(cells):
        first, end = floor(i * n / cells), ceil((i + 1) * n / cells)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


class RidgeTable(nn.Module):
    """The ridge's solution for every combination, by its bit mask: looked up instead of solved."""

    intercepts: Tensor
    slopes: Tensor

    def __init__(
        self, ridge: CombinationRidge, modalities: Sequence[Modality], shape: Sequence[int], cells: Shape
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.coarse = nn.ModuleDict(
            {m.name: Pooling(shape, cells) if kind_of(m).is_image else ridge.coarse[m.name] for m in modalities}
        )
        n_masks = 1 << len(self.modalities)
        solved = [None, *(ridge.weights(mask) for mask in range(1, n_masks))]
        self.register_buffer("intercepts", _column([w.intercept if w else 0.0 for w in solved]))
        self.register_buffer("slopes", _column([w.baseline if w else 0.0 for w in solved]))
        self.weights = nn.ParameterDict()
        for m in modalities:
            # A combination without the modality, or a modality that no training visit has, has no weights for it.
            known = [None if w is None else w.features.get(m.name) for w in solved]
            size = next((len(row) for row in known if row is not None), 1)
            none = torch.zeros(size, dtype=torch.float64)
            rows = torch.stack([none if row is None else row for row in known])
            self.weights[m.name] = nn.Parameter(rows, requires_grad=False)

    def forward(
        self,
        rows: Sequence[Tensor],
        observed: Bool[Tensor, "batch modality"],
        mask: Int[Tensor, " batch"],
        baseline: Float[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Change at the horizon, points."""
        found = self.intercepts[mask] + self.slopes[mask] * baseline.double()
        for column, (modality, x) in enumerate(zip(self.modalities, rows, strict=True)):
            features = self.coarse[modality.name](x.double() if kind_of(modality).is_image else x).double().flatten(1)
            part = (features * self.weights[modality.name][mask]).sum(1)
            found = found + torch.where(observed[:, column], part, 0.0)
        return found.float()


def _column(values: Sequence[float]) -> Float64[Tensor, " mask"]:
    return torch.tensor(values, dtype=torch.float64)
