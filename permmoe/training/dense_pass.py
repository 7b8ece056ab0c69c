"""The model's forward pass without shapes that depend on the data: what `torch.func.vmap` can batch.

The sparse pass (permmoe.model) encodes observed inputs only and gathers each expert's tokens. Here every modality is
encoded, zeros where it was not observed, and every expert sees every token; masks and gates then select. The result is
the same, at the cost of a model without sparsity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.layers.experts import Experts
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe.layers.noise import dropped
from permmoe.layers.routers import Routing
from permmoe.model import Output, PerMMoE, only

Inputs = tuple[Tensor, ...]
"""One tensor a modality, in the model's order; zeros where it was not observed."""
Mix = Callable[[Experts, Tensor, Tensor], Tensor]
"""From experts, tokens and their gates to the mean of the experts' outputs."""


class DensePerMMoE(nn.Module):
    """A view of a model: the same parameters under the same names, behind `model.`"""

    def __init__(self, model: PerMMoE, mix: Mix | None = None) -> None:
        """`mix`: how the experts' outputs are mixed; by default by `dense_experts`."""
        super().__init__()
        self.model, self.mix = model, mix or dense_experts

    def forward(
        self,
        inputs: Inputs,
        observed: Bool[Tensor, "batch modality"],
        baseline: Float[Tensor, " batch"],
        rows: Int[Tensor, "batch modality"] | None = None,
    ) -> Output:
        """As `PerMMoE.forward` of a model without a ridge, or of one that is training; not of one that translates or
        has clusters.

        `rows`: where each observed input stands among the rows of all inputs, one modality's behind the other's; by
        default every modality has a row for every visit.
        """
        model = self.model
        tokens = self._tokens(inputs, observed, self._one_each(observed) if rows is None else rows)
        present = model.missing_bank.present(observed)
        hidden = model.attention(tokens, present)
        normed = model.attention.expert_norm(hidden)
        routing: Routing = model.routers(normed, observed, present)
        mixed = self.mix(model.experts, normed.flatten(0, 2), routing.gates.flatten(0, 2)).view_as(hidden)
        hidden = only(hidden + dropped(mixed, model.config.dropout, model.training), present)
        prediction: Tensor = model.head(hidden, baseline)
        spread = model.spread(hidden, baseline, observed, prediction) if model.spread else None
        return Output(prediction, routing, spread, model.unimodal(tokens) if model.training else None)

    def _tokens(
        self, inputs: Inputs, observed: Bool[Tensor, "batch modality"], rows: Int[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch modality token dim"]:
        """Encoded tokens where a modality was observed, B[P, m] elsewhere."""
        names, bank = self.model.config.names, self.model.missing_bank
        encoded = [self.model.encoders[name](x).float() for name, x in zip(names, inputs, strict=True)]
        bits = torch.arange(observed.shape[1], device=observed.device)
        masks = (observed.long() << bits).sum(1)
        of_bank = sum(map(len, encoded)) + bank.rows.to(masks.device).index_select(0, masks).clamp(min=0)
        chosen = torch.where(observed, rows, of_bank)
        every = torch.cat([*encoded, bank.table()])
        return every.index_select(0, chosen.flatten()).view(*chosen.shape, *every.shape[1:])

    @staticmethod
    def _one_each(observed: Bool[Tensor, "batch modality"]) -> Int[Tensor, "batch modality"]:
        n_visits, n_modalities = observed.shape
        return torch.arange(n_visits * n_modalities, device=observed.device).view(n_modalities, n_visits).t()


def dense_experts(
    experts: Experts, tokens: Float[Tensor, "token dim"], gates: Float[Tensor, "token expert"]
) -> Float[Tensor, "token dim"]:
    """Σ_e gate_e · FFN_e(token), over all experts."""
    hidden = F.gelu(torch.einsum("td,edh->eth", tokens, experts.w1) + experts.b1.unsqueeze(1))
    outputs = torch.einsum("eth,ehd->etd", hidden, experts.w2) + experts.b2.unsqueeze(1)
    return torch.einsum("te,etd->td", gates, outputs)


def dense_inputs(batch: Batch, config: ModelConfig) -> Inputs:
    """A batch's inputs with a row for every visit, as the fixed stem leaves them."""
    full: list[Tensor] = []
    for column, modality in enumerate(config.modalities):
        rows = batch.inputs.get(modality.name)
        dense = batch.baseline.new_zeros(len(batch.baseline), *INPUT_KINDS[modality.kind].shape(modality, config))
        if rows is not None and len(rows):
            dense[batch.observed[:, column]] = rows
        full.append(dense)
    return tuple(full)
