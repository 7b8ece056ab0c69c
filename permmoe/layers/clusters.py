"""Clusters of a modality's tokens, whose centres stand in for other modalities: ClusMFL without its classes.

ClusMFL (Wang et al. 2025, arXiv 2502.12180) clusters each site's embeddings of every modality and class, pools the
centres, completes what a visit lacks with centres of its class, and draws embeddings to their centres by a contrastive
loss. A change in a score has no class. So clusters are of a modality's tokens alone, and what links modalities is who
has both: the centre C[n, k, m] is the mean of m's tokens over the visits with m whose tokens of n are in cluster k of
n. With m = n it is the cluster's own centre, and setting it again is a step of Lloyd's algorithm for k-means.

A federation averages each centre by the visits behind it, which gives the mean over all sites' visits: its clusters are
those of everybody, and a centre of few patients is withheld as any other module is. No centre moves far in one round,
for a site takes a model that moved far for one that was made for an attack.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from permmoe.config import ModelConfig


class Clusters(nn.Module):
    """The centres. No gradient moves them: they are set from tokens (`put`), by the training that made the tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_modalities = len(config.modalities)
        self.per_modality, self.temperature = config.clusters.per_modality, config.clusters.temperature
        self.most_move = config.clusters.most_move
        n_rows = self.n_modalities * self.per_modality * self.n_modalities
        # Near zero, where the nearest centre is the one in whose direction a token lies.
        start = config.bank_deviation * torch.randn(n_rows, config.tokens, config.width)
        self.centres = nn.Parameter(start, requires_grad=False)
        """C[n, k, m], row by row."""

    def table(self) -> Float[Tensor, "modality cluster other token dim"]:
        """C, by its three indices."""
        return self.centres.view(self.n_modalities, self.per_modality, self.n_modalities, *self.centres.shape[1:])

    def own(self) -> Float[Tensor, "modality cluster token dim"]:
        """C[m, k, m]: the clusters' own centres."""
        return self.table().diagonal(dim1=0, dim2=2).permute(3, 0, 1, 2)

    def nearest(self, tokens: Float[Tensor, "batch modality token dim"]) -> Int[Tensor, "batch modality"]:
        """The cluster of each modality's tokens: that of the nearest centre."""
        return (tokens.unsqueeze(2) - self.own()).square().sum((3, 4)).argmin(2)

    def completed(
        self, tokens: Float[Tensor, "batch modality token dim"], observed: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch modality token dim"]:
        """The observed tokens as they are, and for m that is missing the mean of C[n, k_n, m] over the observed n.

        What the places of missing modalities held is ignored.
        """
        seen = observed.to(tokens.device, non_blocking=True)[:, :, None, None]
        modalities = torch.arange(tokens.shape[1], device=tokens.device)
        proxies = self.table()[modalities, self.nearest(tokens)]
        of_seen = torch.where(seen.unsqueeze(2), proxies, 0.0).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
        return torch.where(seen, tokens, of_seen)

    def misalignment(self, tokens: Float[Tensor, "batch modality token dim"]) -> Float[Tensor, "batch modality"]:
        """−log of the share that its own cluster has in exp(cosine / temperature) over its modality's centres, nats.

        The contrastive loss: it draws tokens to the centre that they are nearest to, and away from the others.
        """
        directions = F.normalize(self.own().flatten(2), dim=2)
        logits = torch.einsum("bmd,mkd->bmk", F.normalize(tokens.flatten(2), dim=2), directions) / self.temperature
        return -logits.log_softmax(2).gather(2, self.nearest(tokens).unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def sums(
        self, tokens: Float[Tensor, "batch modality token dim"], observed: Bool[Tensor, "batch modality"]
    ) -> tuple[Float64[Tensor, "row token dim"], Float64[Tensor, " row"]]:
        """Over some visits, for each row of `centres` the sum of the tokens that it is a mean of, and their number."""
        seen = observed.to(tokens.device).double()
        member = F.one_hot(self.nearest(tokens), self.per_modality) * seen.unsqueeze(2)
        values = torch.where(observed.to(tokens.device)[:, :, None, None], tokens, 0.0).double()
        sums = torch.einsum("bnk,bmtd->nkmtd", member, values).flatten(0, 2)
        return sums, torch.einsum("bnk,bm->nkm", member, seen).flatten()

    @torch.no_grad()
    def put(self, sums: Float64[Tensor, "row token dim"], counts: Float64[Tensor, " row"]) -> None:
        """Make each centre the mean of what was summed, or move it towards that mean by as much as it may move.

        One of no visit stays where it is. A centre of few visits goes far where some of them come to it or leave it.
        """
        means = sums / counts.clamp(min=1)[:, None, None]
        move = torch.where(counts[:, None, None] > 0, means - self.centres, 0.0)
        length = move.square().mean((1, 2), keepdim=True).sqrt()
        self.centres.add_((move * (self.most_move / length.clamp(min=self.most_move))).float())
