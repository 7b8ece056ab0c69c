"""Differencing over sites: secure sums over some sites and then over others, by a server that chooses who takes part.

Sites refuse a sum after which fewer than `min_cohort_difference` of them could be told apart. A site that works with
the server, or belongs to it (a Sybil), knows its own input: the server then needs to tell apart only groups in which
all but one site are its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permmoe.federated.release_account import ReleaseAccount
from permmoe_simulation.attacks.isolation import isolated_groups


@dataclass(frozen=True)
class ParticipantsGame:
    """How often a lying server learns one honest site's own numbers."""

    least_difference: int
    """1: no rule."""
    n_colluding: int
    exposed: int
    """Plans in which at least one honest site was exposed."""
    plans: int
    answered: float
    """Share of the sums asked for that sites gave."""


def participants_game(plans: int, n_sites: int, least_difference: int, n_colluding: int, seed: int) -> ParticipantsGame:
    """Play random plans: the first sum is over all sites, each later one over a random subset of three or more."""
    sites = [f"site-{i}" for i in range(n_sites)]
    own = set(sites[:n_colluding])
    exposed, given, asked = 0, 0, 0
    for number in range(plans):
        # The same plans whatever the rule and whoever colludes.
        rng = np.random.default_rng([seed, number])
        account, sums = ReleaseAccount(), list[frozenset[str]]()
        wanted = [frozenset(sites)] + [
            frozenset(rng.choice(sites, size=int(rng.integers(3, n_sites + 1)), replace=False).tolist())
            for _ in range(int(rng.integers(1, 9)))
        ]
        for participants in wanted:
            labels = dict.fromkeys(participants, 1)
            if account.admits(labels, least_difference):
                account = account.after(labels)
                sums.append(participants)
        honest = [one - own for one in dict.fromkeys(sums)]
        exposed += any(len(one.members) == 1 for one in isolated_groups([one for one in honest if one]))
        given, asked = given + len(sums), asked + len(wanted)
    return ParticipantsGame(least_difference, n_colluding, exposed, plans, given / asked)
