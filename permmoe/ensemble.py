"""Several models of one configuration, trained from different seeds, that predict as one: by their mean.

What a training's luck adds to a single prediction averages out, and how far the members are apart tells of it
(Lakshminarayanan et al. 2017, Simple and scalable predictive uncertainty estimation using deep ensembles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from permmoe.config import MOST_MEMBERS, ModelConfig
from permmoe.data.batch import Batch
from permmoe.errors import DataError
from permmoe.layers.ridge import CombinationRidge
from permmoe.layers.spread import SpreadHead
from permmoe.model import Encoded, Output, PerMMoE

MEMBERS_KEY = "members"
"""Where a model's card says how many members its tensors are of; a card without it is of one model."""


@dataclass(frozen=True)
class EncodedByMembers(Encoded):
    """What every member's encoders make of the same visits; as an `Encoded` it is the first member's."""

    members: tuple[Encoded, ...] = ()

    @classmethod
    def of(cls, members: Sequence[Encoded]) -> EncodedByMembers:
        """The members' visits, which are the same."""
        return cls(**vars(members[0]), members=tuple(members))

    def keeping(self, visits: Int[Tensor, " row"], kept: Bool[Tensor, "row modality"]) -> EncodedByMembers:
        """As `Encoded.keeping`."""
        return self.of([member.keeping(visits, kept) for member in self.members])

    def with_baseline(self, baseline: Float[Tensor, " batch"]) -> EncodedByMembers:
        """As `Encoded.with_baseline`."""
        return self.of([member.with_baseline(baseline) for member in self.members])


class Ensemble(nn.Module):
    """Trained models as one, in evaluation mode; it answers what is asked of a PerMMoE that predicts."""

    def __init__(self, members: Sequence[PerMMoE]) -> None:
        """Raises ValueError for no member, and for members whose configurations differ."""
        super().__init__()
        if not members or any(member.config != members[0].config for member in members):
            raise ValueError("an ensemble has members, all of one configuration")
        self.config = members[0].config
        self.members = nn.ModuleList(members)
        self.eval()

    @property
    def models(self) -> tuple[PerMMoE, ...]:
        """The members."""
        return tuple(cast(PerMMoE, member) for member in self.members)

    @property
    def encoders(self) -> nn.ModuleDict:
        """The first member's: centres of inputs are the training visits' means, which all members share."""
        return self.models[0].encoders

    @property
    def ridge(self) -> CombinationRidge | None:
        """The first member's: a closed form of the training visits, which all members share."""
        return self.models[0].ridge

    @property
    def spread(self) -> SpreadHead | None:
        """The first member's head for the spread; None where members have none."""
        return self.models[0].spread

    def forward(self, batch: Batch) -> Output:
        """Predict for each visit, as `PerMMoE.forward`."""
        return self.fuse(self.encode(batch))

    def encode(self, batch: Batch) -> EncodedByMembers:
        """The tokens of all observed inputs, by each member's own encoders."""
        return EncodedByMembers.of([member.encode(batch) for member in self.models])

    def fuse(self, encoded: Encoded) -> Output:
        """The members' mean prediction of visits that this ensemble encoded.

        Its spread is that of a mixture: what members predict of it, and how far apart they are. The routing is the
        first member's, for experts of different members are different experts.
        """
        assert isinstance(encoded, EncodedByMembers)
        outputs = [member.fuse(one) for member, one in zip(self.models, encoded.members, strict=True)]
        by_member = torch.stack([output.prediction for output in outputs], dim=1)
        spreads = [output.spread for output in outputs if output.spread is not None]
        spread = mixture_spread(torch.stack(spreads, dim=1), by_member) if spreads else None
        return Output(by_member.mean(1), outputs[0].routing, spread, by_member=by_member)


Network = PerMMoE | Ensemble
"""A trained model that predicts: one, or several as one."""


def mixture_spread(
    spreads: Float[Tensor, "batch member"], predictions: Float[Tensor, "batch member"]
) -> Float[Tensor, " batch"]:
    """The SD of a mixture of equal parts, each with its own mean and SD: √(mean variance + variance of means)."""
    return (spreads.square().mean(1) + predictions.var(1, correction=0)).sqrt()


def joined(models: Sequence[PerMMoE]) -> Network:
    """Models as one; a single one as it is. Raises ValueError as `Ensemble` does."""
    return models[0] if len(models) == 1 else Ensemble(models)


def empty_network(config: ModelConfig, members: int = 1) -> Network:
    """A network of so many members with arbitrary weights, to load others into."""
    return joined([PerMMoE(config) for _ in range(members)])


def members_of(card: Mapping[str, Any], source: str) -> int:
    """How many members a card's tensors are of. Raises DataError where it names no number of members."""
    members = card.get(MEMBERS_KEY, 1)
    if not isinstance(members, int) or not 1 <= members <= MOST_MEMBERS:
        raise DataError(f"{source} names no number of members from 1 to {MOST_MEMBERS}; take it from a back-up")
    return members
