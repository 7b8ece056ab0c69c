"""Secrets of sites that went silent, from the shares that their keepers give."""

from __future__ import annotations

from collections.abc import Mapping

from permmoe.federated.secure import shamir
from permmoe.federated.secure.session import Participants, SecureSumRefused


def recover(shares: Mapping[str, Mapping[str, bytes]], participants: Participants) -> dict[str, bytes]:
    """The secret of each site from its keepers' shares, all of one length. A wrong share gives another secret.

    `shares`: whose secret -> which keeper -> share. Raises SecureSumRefused where a site has too few.
    """
    t = participants.neighbourhood.threshold
    for site, of_site in shares.items():
        if len(of_site) < t:
            raise SecureSumRefused(f"{len(of_site)} keepers of {site} gave shares, of the {t} that it takes")
    chosen = [
        {participants.numbers[keeper]: of_site[keeper] for keeper in sorted(of_site)[:t]} for of_site in shares.values()
    ]
    return dict(zip(shares, shamir.combine(chosen), strict=True))
