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
from permmoe.federated.audit import Head, Kind
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import (
    EvaluationReply,
    TrainReply,
    content_bytes,
    model_digest,
    write_evaluation_reply,
    write_train_reply,
)
from permmoe_client.ledger import Ledger
from permmoe_client.site import ReleasePolicy

DAY = timedelta(days=1)
BUCKETS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
PRIVACY = "none: neither differential privacy nor secure sum"


class NotReleased(PermmoeError):  # noqa: N818 - the policy's verdict
    """Something that the site's release policy does not let out."""


def released(reply: TrainReply, policy: ReleasePolicy) -> TrainReply:
    """The reply with only the modules that the policy names."""
    allowed = {n: u for n, u in reply.updates.items() if any(fnmatchcase(n, p) for p in policy.modules)}
    return replace(reply, updates=allowed)


def send_training(reply: TrainReply, plan: RoundPlan, policy: ReleasePolicy, ledger: Ledger | None) -> RecordDict:
    """What may be sent, its entry written. Raises NotReleased, LedgerError."""
    reply = released(reply, policy)
    figures = [update.support for update in reply.updates.values()] + [reply.loss_sum, reply.visits]
    # "Nothing that is not a number leaves": it could carry anything, and the coordinator would reject it.
    if not all(math.isfinite(figure) for figure in figures):
        raise NotReleased("the training gave a support or a loss that is not a number; nothing was sent")
    content = write_train_reply(reply)
    if ledger is None:
        return content
    facts = {
        **_common(plan, reply, content),
        "visits": bucket(reply.visits),
        "modules": {
            name: {"bytes": 4 * update.weighted_delta.numel(), "support": bucket(update.support)}
            for name, update in reply.updates.items()
        },
        "update_sha256": model_digest({name: update.weighted_delta for name, update in reply.updates.items()}),
    }
    return write_train_reply(replace(reply, head=_enter(ledger, "training", facts, policy)))


def send_evaluation(
    reply: EvaluationReply, plan: RoundPlan, policy: ReleasePolicy, ledger: Ledger | None
) -> RecordDict:
    """What may be sent, its entry written. Raises NotReleased, LedgerError."""
    content = write_evaluation_reply(reply)
    if ledger is None:
        return content
    facts = {
        **_common(plan, reply, content),
        "combinations": {name: bucket(float(s.n)) for name, s in reply.sums.items()},
    }
    return write_evaluation_reply(replace(reply, head=_enter(ledger, "evaluation", facts, policy)))


def bucket(count: float) -> str:
    """The range that a count lies in, such as 20-49: the ledger may be shown to more people than the data."""
    if count < 1:
        return "under 1"
    lower = max(b for b in BUCKETS if b <= count)
    higher = [b for b in BUCKETS if b > lower]
    return f"{lower}-{higher[0] - 1}" if higher else f"{lower} or more"


def _common(plan: RoundPlan, reply: TrainReply | EvaluationReply, content: RecordDict) -> dict[str, object]:
    return {
        "study": plan.digest(),
        "study_name": plan.name,
        "round": reply.round,
        "model_sha256": reply.model_digest,
        "bytes": content_bytes(content),
        "privacy": PRIVACY,
    }


def _enter(ledger: Ledger, kind: Kind, facts: Mapping[str, object], policy: ReleasePolicy) -> Head:
    # "No more than daily_bytes leaves in any 24 hours."
    size = facts["bytes"]
    assert isinstance(size, int)
    if ledger.bytes_since(DAY) + size > policy.daily_bytes:
        raise NotReleased(
            f"sending {size:,} bytes more would pass the {policy.daily_bytes:,} bytes that release.daily_bytes lets "
            "out in 24 hours; raise it in site.yaml, or wait"
        )
    return ledger.append(kind, facts)
