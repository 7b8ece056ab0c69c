"""No work for a model that the coordinator has not announced to all sites, in a chain that it signed.

A chain cannot tell a good model from a crafted one. It holds the coordinator to one story: whoever has the ledgers of
two hospitals sees every model that either was sent, and two chains that part are signed by the one who told them.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from permmoe.errors import PermmoeError
from permmoe.federated.audit import AuditError
from permmoe.federated.instructions import Instruction
from permmoe.federated.model_chain import ChainHead, Link, Purpose, check_evaluated, check_head, check_tested, head_of


class ModelNotAnnounced(PermmoeError):
    """The model of an instruction is not in the signed chain of the study's models, or that chain is another one now.

    Texts name rounds and digests, and nothing of the site's data.
    """


def require_announced(
    instruction: Instruction, purpose: Purpose, authority: x509.Certificate, seen: ChainHead | None
) -> Instruction:
    """The instruction, once its model was found announced; what it announces says how much of it was `seen` before.

    `seen` is the newest head of this study in the site's own ledger. Raises ModelNotAnnounced.
    """
    announcement = instruction.announcement
    # "A site with a coordinator works with no model that nobody signed for."
    if announcement is None:
        raise ModelNotAnnounced(
            "the instruction came without the signed chain of the study's models; the coordinator's program is older "
            "than this one, or hides what it sends to others"
        )
    links, signed, study = announcement.links, announcement.signed, instruction.plan.digest()
    try:
        # "The head is signed by this federation's server": a site's certificate is of the same authority.
        check_head(signed, authority)
        # "A chain is of one study."
        if signed.head.study != study:
            raise AuditError("the chain of models is of another study")
        # "The head is that of the links": not one of them was changed, left out or added.
        if signed.head != head_of(study, links):
            raise AuditError("the chain of models is not the one that was signed")
        # "The model that a round trains from is the one that was evaluated after the round before."
        if not instruction.plan.federation.averaging_decay:
            check_evaluated(links)
        check_tested(links)
    except AuditError as error:
        raise ModelNotAnnounced(f"{error}; nothing was done") from None
    # "A model is announced before it is sent." It need not be the last: a coordinator that was killed runs a round
    # again, and announces no model twice.
    if Link(instruction.round, purpose, instruction.model_digest) not in links:
        raise ModelNotAnnounced(f"the model of round {instruction.round} for {purpose} was never announced")
    if seen is None:
        return instruction
    # "What was announced once stays announced": the newest head in this ledger is the beginning of the chain.
    if len(links) < seen.length:
        raise ModelNotAnnounced(
            f"the chain of models has {len(links)} links, but this ledger has seen {seen.length}: the message is an "
            "old one, or the coordinator has lost its record and tells another story now"
        )
    if head_of(study, links[: seen.length]) != seen:
        raise ModelNotAnnounced(
            f"the first {seen.length} models announced are not those of this ledger: the coordinator has told two "
            "stories, and both are signed"
        )
    return replace(instruction, announcement=replace(announcement, known=seen.length))
