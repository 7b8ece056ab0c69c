"""How a private study's `target_epsilon` is divided: between what trains the model and what evaluates it.

Gaussian noise of σ times the sensitivity costs ρ = 1 / 2σ², and costs add up (Bun and Steinke 2016, arXiv 1605.02658):
a release that may cost the share s of the whole has noise larger by 1 / √s. A patient is in one part of the split
alone, and the account charges it with all parts: so nobody's loss depends on the part that he is in.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

from permmoe.config import PrivacyConfig
from permmoe.federated.accounting import Spent, noise_multiplier_for
from permmoe.federated.federation_config import FederationConfig


def release_multiplier(federation: FederationConfig) -> float:
    """σ of what trains the model in one release. The study has `privacy`. Raises ConfigurationError where no noise
    keeps its target."""
    privacy = federation.privacy
    assert privacy
    whole = privacy.noise_multiplier or _whole(privacy)
    return whole / sqrt(1 - privacy.evaluation.share) if privacy.evaluation else whole


def evaluation_multiplier(federation: FederationConfig) -> float:
    """σ of one evaluation: each has as much of the evaluations' share. The study has `privacy.evaluation`. Errors as
    `release_multiplier`."""
    privacy = federation.privacy
    assert privacy and privacy.evaluation
    return _whole(privacy) * sqrt(federation.n_evaluations / privacy.evaluation.share)


def spent_on_evaluations(federation: FederationConfig) -> tuple[Spent, ...]:
    """What all evaluations of a study may cost together; nothing where there are none."""
    if not federation.has_private_evaluations:
        return ()
    return (Spent(evaluation_multiplier(federation), 1.0, federation.n_evaluations, is_discrete=True),)


@lru_cache(maxsize=64)
def _whole(privacy: PrivacyConfig) -> float:
    assert privacy.target_epsilon
    return noise_multiplier_for(privacy.target_epsilon, privacy.delta, 1.0, 1, is_discrete=True)
