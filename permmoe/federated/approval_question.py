"""The question whether a site has approved a study, and its answer: they bring no model, and nothing of a patient.

A study that waits for approvals asks it, so that waiting costs neither a round nor a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import MalformedRecord, record_of, typed

APPROVAL_QUERY = "approval"
"""The name of the question among a site's queries."""
APPROVAL_MESSAGE = f"query.{APPROVAL_QUERY}"
"""The type of its message, as Flower writes it."""


@dataclass(frozen=True)
class ApprovalAnswer:
    """What a site says of a study."""

    has_approved: bool


def write_question(plan: RoundPlan) -> RecordDict:
    """Write the question about a study."""
    return RecordDict({"question": ConfigRecord({"plan": plan.canonical_json()})})


def read_question(content: RecordDict) -> RoundPlan:
    """Return the study that is asked about. Raises MalformedRecord."""
    try:
        return RoundPlan.model_validate_json(typed(record_of(content, "question", ConfigRecord), "plan", str))
    except ValueError:
        raise MalformedRecord("plan") from None


def write_answer(answer: ApprovalAnswer) -> RecordDict:
    """Write the answer."""
    return RecordDict({"answer": ConfigRecord({"has-approved": answer.has_approved})})


def read_answer(content: RecordDict) -> ApprovalAnswer:
    """Return the answer. Raises MalformedRecord."""
    found = record_of(content, "answer", ConfigRecord).get("has-approved")
    if not isinstance(found, bool):
        raise MalformedRecord("missing_has_approved")
    return ApprovalAnswer(found)
