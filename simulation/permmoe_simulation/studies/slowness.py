"""Slow and unequal hospitals: how long each takes for a round, drawn by a seed, in simulated time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from permmoe.config import Configuration
from permmoe_simulation.engines.grid import FIRST_NODE
from permmoe_simulation.engines.pace import Pace


class Slowness(Configuration):
    """How long sites take, in simulated time: nobody waits for it, and the same seed draws the same."""

    slow_sites: int = Field(2, ge=0, description="sites, drawn by the seed, that are slow in every round")
    factor: float = Field(3.0, ge=1, description="by which a slow site takes longer")
    round_seconds: float = Field(60.0, gt=0, description="median time of a training at a site that is not slow")
    spread: float = Field(0.2, ge=0, description="standard deviation of the logarithm of a training's time")
    absence: float = Field(0.0, ge=0, lt=1, description="chance that a site is away for a round, from the second on")


def slow_sites(config: Slowness, names: Sequence[str], seed: int) -> frozenset[str]:
    """The sites that are slow in every round; all of them where there are fewer."""
    order = np.random.default_rng((seed, 3)).permutation(len(names))
    return frozenset(names[i] for i in order[: config.slow_sites])


def drawn_pace(config: Slowness, names: Sequence[str], seed: int) -> Pace:
    """The pace of sites that are the nodes from FIRST_NODE on. What is drawn for a round depends on no other round."""
    slow = slow_sites(config, names, seed)

    def pace(node: int, number: int) -> float | None:
        place = node - FIRST_NODE
        generator = np.random.default_rng((seed, 4, place, number))
        is_away = generator.random() < config.absence and number > 1
        usual = config.round_seconds * float(np.exp(config.spread * generator.standard_normal()))
        return None if is_away else usual * (config.factor if names[place] in slow else 1.0)

    return pace
