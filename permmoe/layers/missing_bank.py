"""The missing bank: learned tokens that stand in for a modality, given what else was observed (paper, section 2.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from permmoe.config import ModelConfig
from permmoe.data.batch import observed_masks
from permmoe.modality import bank_pairs

WITHOUT_TOKENS = ("none", "translated", "clusters")
"""Values of `ModelConfig.bank` under which the bank keeps nothing for a missing modality."""


class MissingBank(nn.Module):
    """B[P, m]: one embedding for each observed set P and modality m ∉ P, in the order of `bank_pairs`.

    Each pair has its own, so a combination that was never trained on still has (its initial) tokens. For ablation
    `ModelConfig.bank` makes it one embedding for each modality, whatever P is, or tokens that are never trained; or it
    holds none: then zeros mark the places of modalities that play no part (`present`), are translated or are completed
    from clusters.
    """

    rows: Tensor
    """[mask, modality] -> row of `embeddings`; −1 where there is none. It follows from |M|, so it is not saved. It
    stays on the CPU, as `observed` does."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_modalities = len(config.modalities)
        pairs = bank_pairs(n_modalities)
        is_conditioned, is_empty = config.bank != "unconditioned", config.bank in WITHOUT_TOKENS
        self.is_masked = config.bank == "none"
        n_rows = 0 if is_empty else len(pairs) if is_conditioned else n_modalities
        scale = {"zeros": 0.0, "random": 1.0}.get(config.bank, config.bank_deviation)
        tokens = scale * torch.randn(n_rows, config.tokens, config.width)
        self.embeddings = nn.Parameter(tokens, requires_grad=config.has_learned_bank)
        rows = torch.full((1 << n_modalities, n_modalities), -1)
        for row, (mask, missing) in enumerate(pairs):
            rows[mask, missing] = 0 if is_empty else row if is_conditioned else missing
        self.rows = rows

    def forward(self, observed: Bool[Tensor, "batch modality"]) -> Float[Tensor, "missing token dim"]:
        """Tokens for every unobserved place, row by row of `observed`, no row of which may be empty."""
        rows = self.rows[observed_masks(observed)][~observed]
        return self.table().index_select(0, rows.to(self.embeddings.device, non_blocking=True))

    def table(self) -> Float[Tensor, "row token dim"]:
        """What `rows` counts: the embeddings, or one row of zeros where there are none."""
        return self.embeddings if len(self.embeddings) else self.embeddings.new_zeros(1, *self.embeddings.shape[1:])

    def present(self, observed: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"] | None:
        """Which modalities play a part, on the device of the parameters; None where all do.

        What fills up a batch and has no modality at all keeps all of its places: attention over none is no number.
        """
        if not self.is_masked:
            return None
        there = observed.to(self.embeddings.device, non_blocking=True)
        return there | ~there.any(1, keepdim=True)
