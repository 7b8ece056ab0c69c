"""How many sites keep shares of a site's secrets, and how many of them it takes.

In a small federation all sites do (the complete graph of Bonawitz et al. 2017). In a large one each site chooses its
keepers at random, as in the protocol of Bell et al. 2020 (doi 10.1145/3372297.3417885) against a lying server: nobody
else has a say in it, so no site can be surrounded by others. docs/threat-model.md has the table, and what it rests on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from permmoe.federated.secure.tails import binomial_tail, hypergeometric_tail

ALL_UP_TO = 200
"""In so small a federation all sites are keepers: then nothing is left to chance, and more sites may go silent."""
COLLUDING_ONE_IN = 6
"""At most one in so many sites works with a lying server."""
DROPPED_ONE_IN = 10
"""At most one in so many sites goes silent after it has advertised its keys, and chance says which."""
SECURITY_BITS, CORRECTNESS_BITS = 40, 20
"""A sum is insecure, or fails though no more sites went silent, with a probability of at most 2^-this."""


@dataclass(frozen=True)
class Neighbourhood:
    """The keepers of one site."""

    keepers: int
    """m: as many sites keep a share of its secrets, itself among them."""
    threshold: int
    """t: as many of them recover its secrets."""


def threshold(share: float, n_sites: int) -> int:
    """t: how many of n sites must stay to the end, more than half whatever the share.

    With 2t > n, n sites that give one share a peer cannot give t shares of both kinds for anybody.
    """
    return max(math.floor(share * n_sites), n_sites // 2) + 1


@lru_cache(maxsize=64)
def neighbourhood(n_sites: int, share: float) -> Neighbourhood:
    """The fewest keepers that keep the secrets and can recover them; all sites where half of them would be too few.

    The threshold is more than `share` of the keepers, as it is of all sites where all are keepers.
    """
    all_keep = Neighbourhood(n_sites, threshold(share, n_sites))
    if n_sites <= ALL_UP_TO:
        return all_keep
    peers = n_sites - 1
    colluding, dropped = n_sites // COLLUDING_ONE_IN, n_sites // DROPPED_ONE_IN
    too_many = 0
    """So many colluding keepers are as unlikely as it takes: more keepers make more of them likely."""
    for chosen in range(1, peers // 2):
        while n_sites * hypergeometric_tail(peers, colluding, chosen, too_many) > 2.0**-SECURITY_BITS:
            too_many += 1
        keepers = chosen + 1
        # "Fewer than 2t - m colluding keepers cannot gather t shares of both kinds": each other gives one kind.
        t = max(threshold(share, keepers), -(-(keepers + too_many) // 2))
        spare = keepers - t
        # A site that is gone lacks its own share too.
        is_lost = hypergeometric_tail(peers, dropped, chosen, spare)
        # A site gives shares of at most m - t sites, and may have been chosen by more of those that are gone.
        is_asked_too_much = binomial_tail(dropped, chosen, peers, spare + 1)
        if n_sites * (is_lost + is_asked_too_much) <= 2.0**-CORRECTNESS_BITS:
            return Neighbourhood(keepers, t)
    return all_keep
