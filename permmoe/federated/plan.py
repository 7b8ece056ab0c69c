"""What every participant of a federated study works by; it travels with every instruction."""

from __future__ import annotations

from permmoe.config import Configuration, FederationConfig, ModelConfig, TrainConfig


class RoundPlan(Configuration):
    """A federated study. `train.seed` is the study's seed: initial weights and every site's randomness follow from it.

    `train.epochs` and `train.patience_epochs` play no role: a site trains `federation.local_epochs` a round.
    """

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    federation: FederationConfig = FederationConfig()
