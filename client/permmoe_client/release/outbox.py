"""The one door out of the site: what the release policy does not name stays, and nothing leaves without an entry.

An entry says which study and round, which modules and how large, and how many visits in words of a range. It holds no
value, no exact support, no subject and no path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from fnmatch import fnmatchcase

from flwr.app import RecordDict

from permmoe.errors import PermmoeError
from permmoe.federated.audit import Kind, LedgerHead
from permmoe.federated.instructions import Instruction
from permmoe.federated.packed_model import digest_of, module_digests
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import (
    EvaluationReply,
    TrainReply,
    pack_updates,
    write_evaluation_reply,
    write_head,
    write_train_reply,
)
from permmoe_client.participation.privacy_account import spent_facts
from permmoe_client.release.announced_models import announced_facts
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import ReleasePolicy

DAY = timedelta(days=1)
BUCKETS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class NotReleased(PermmoeError):
    """Something that the site's release policy does not let out."""


def released(reply: TrainReply, policy: ReleasePolicy) -> TrainReply:
    """The reply with only the modules that the policy names. Raises NotReleased where it holds no numbers."""

    def may_leave(module: str) -> bool:
        return any(fnmatchcase(module, pattern) for pattern in policy.modules)

    allowed = {name: update for name, update in reply.updates.items() if may_leave(name)}
    # Which modalities the site has would reveal an encoder that it keeps to itself.
    are_named = all(may_leave(f"encoder/{name}") for name in reply.modalities)
    # "Nothing that is not a number leaves": it could carry anything, and the coordinator would reject it.
    if not reply.figures.are_finite() or not all(math.isfinite(update.support) for update in allowed.values()):
        raise NotReleased("the training gave a support or a loss that is not a number; nothing was sent")
    return replace(reply, updates=allowed, modalities=reply.modalities if are_named else ())


def send_training(
    reply: TrainReply, instruction: Instruction, policy: ReleasePolicy, ledger: Ledger | None
) -> RecordDict:
    """What may be sent, its entry written; what is sent again has its entry. Raises NotReleased, LedgerError."""
    reply = released(reply, policy)
    # "Only studies with the secure sum", where the site says so.
    if policy.require_secure:
        raise NotReleased("release.require_secure is set and this study has no secure sum; nothing was sent")
    content = write_train_reply(reply, instruction.up_wire)
    if reply.head:
        write_head(content, reply.head)
    elif ledger:
        write_head(
            content, enter(ledger, "training", training_facts(reply, instruction), content_bytes(content), policy)
        )
    return content


def training_facts(reply: TrainReply, instruction: Instruction) -> dict[str, object]:
    """What the ledger will say of a training, plain or masked, of which only this is released."""
    packed = pack_updates(reply, instruction.up_wire)
    return {
        **_common(instruction, "training"),
        **({"of": "scans alone"} if instruction.plan.federation.is_pretraining(instruction.round) else {}),
        **{name: bucket(value) for name, value in reply.figures.for_ledger().items()},
        "modules": {
            name: {"bytes": len(packed[name]), "support": bucket(update.support)}
            for name, update in reply.updates.items()
        },
        **spent_facts(reply.spent),
        "update_sha256": digest_of(module_digests(packed)),
    }


def send_evaluation(
    reply: EvaluationReply, instruction: Instruction, policy: ReleasePolicy, ledger: Ledger | None
) -> RecordDict:
    """What may be sent, its entry written. Raises NotReleased, LedgerError."""
    if policy.require_secure:
        raise NotReleased("release.require_secure is set and this study has no secure sum; nothing was sent")
    content = write_evaluation_reply(reply)
    if ledger:
        write_head(
            content, enter(ledger, "evaluation", evaluation_facts(reply, instruction), content_bytes(content), policy)
        )
    return content


def evaluation_facts(reply: EvaluationReply, instruction: Instruction) -> dict[str, object]:
    """What the ledger will say of an evaluation."""
    return {
        **_common(instruction, instruction.part),
        **({"visits": asked.visits} if (asked := instruction.plan.evaluation) else {}),
        **({"members": members} if (members := instruction.plan.members) > 1 else {}),
        **({"scores": sorted(reply.scores)} if reply.scores else {}),
        **({"severity": sorted(reply.severity)} if reply.severity else {}),
        "combinations": {name: bucket(float(s.n)) for name, s in reply.sums.items()},
        **spent_facts(reply.spent),
    }


def enter(ledger: Ledger, kind: Kind, facts: Mapping[str, object], size: int, policy: ReleasePolicy) -> LedgerHead:
    """Write the entry of what is about to leave, `size` bytes. Raises NotReleased, LedgerError."""
    # "No more than daily_bytes leaves in any 24 hours."
    if ledger.bytes_since(DAY) + size > policy.daily_bytes:
        raise NotReleased(
            f"sending {size:,} bytes more would pass the {policy.daily_bytes:,} bytes that release.daily_bytes lets "
            "out in 24 hours; raise it in site.yaml, or wait"
        )
    return ledger.append(kind, {**facts, "bytes": size})


def bucket(count: float) -> str:
    """The range that a count lies in, such as 20-49: the ledger may be shown to more people than the data."""
    if count < 1:
        return "under 1"
    lower = max(b for b in BUCKETS if b <= count)
    higher = [b for b in BUCKETS if b > lower]
    return f"{lower}-{higher[0] - 1}" if higher else f"{lower} or more"


def _common(instruction: Instruction, purpose: str) -> dict[str, object]:
    plan = instruction.plan
    return {
        "study": plan.digest(),
        "study_name": plan.name,
        "round": instruction.round,
        "purpose": purpose,
        "model_sha256": instruction.model_digest,
        "privacy": protections(plan),
        **announced_facts(instruction.announcement),
    }


def protections(plan: RoundPlan) -> str:
    """What protects what leaves in this study, in words."""
    parts = ["secure sum"] if plan.federation.secure else []
    parts += ["patient-level differential privacy"] if plan.federation.privacy else []
    return " and ".join(parts) or "none: neither differential privacy nor secure sum"
