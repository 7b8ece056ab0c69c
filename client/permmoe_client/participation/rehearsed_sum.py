"""A secure sum without a coordinator: what this site would send into it, masked against peers invented here."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict

from permmoe.federated.instructions import Instruction
from permmoe.federated.secure.blocks import Numbers
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.messages import write_masked
from permmoe.federated.secure.session import Blocks, Session
from permmoe.federated.secure.site_sum import SiteSum
from permmoe_client.participation.secure_session import rules_of
from permmoe_client.site import SiteConfig

PEER = "rehearsed-peer-{}"


@dataclass(frozen=True)
class RehearsedInput:
    """The masked input of a rehearsal."""

    message: RecordDict
    """As it would leave, but for the newest entry of the ledger, which goes with it."""
    n_sites: int
    """Sites of the rehearsed sum: as few as this site agrees to, itself among them."""


def rehearse_sum(
    settings: SiteConfig, instruction: Instruction, purpose: str, blocks: Blocks, numbers: Numbers
) -> RehearsedInput:
    """The masked input of this site, by the same code as in a study; keys, masks and peers are thrown away."""
    rules = rules_of(settings.release, instruction.plan.federation)
    session = Session(
        instruction.plan.digest(), purpose, instruction.round, instruction.model_digest, secrets.token_hex(16)
    )
    names = [settings.name, *(PEER.format(number) for number in range(1, rules.min_sites))]
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
    roster = {name: key.public_key() for name, key in keys.items()}
    sites = {name: SiteSum(session, name, keys[name], roster, rules, blocks) for name in names}
    advertised = [site.advertise() for site in sites.values()]
    shares = {name: site.share(advertised) for name, site in sites.items()}
    own = sites[settings.name]
    choices = Choices.of(own.participants, shares)
    masked = own.mask(
        {peer: sealed[own.site] for peer, sealed in shares.items() if own.site in sealed}, choices, numbers
    )
    return RehearsedInput(write_masked(masked, None), len(names))
