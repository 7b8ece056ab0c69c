"""The door for a survey's numbers: nothing leaves without an entry of the ledger, which holds ranges and no number."""

from __future__ import annotations

from flwr.app import RecordDict

from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import write_head
from permmoe.federated.survey_messages import NO_MODEL, Counts, SurveyReply, write_survey_reply
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import NotReleased, bucket, enter, protections
from permmoe_client.site import SiteConfig


def send_survey(counts: Counts, plan: RoundPlan, site: SiteConfig, ledger: Ledger | None) -> RecordDict:
    """What may be sent, its entry written. Raises NotReleased, LedgerError."""
    # "Only studies with the secure sum", where the site says so.
    if site.release.require_secure:
        raise NotReleased("release.require_secure is set and this survey has no secure sum; nothing was sent")
    content = write_survey_reply(SurveyReply(site.name, plan.digest(), counts))
    if ledger:
        write_head(content, enter(ledger, "survey", survey_facts(counts, plan), content_bytes(content), site.release))
    return content


def survey_facts(counts: Counts, plan: RoundPlan) -> dict[str, object]:
    """What the ledger will say of a survey, plain or masked."""
    return {
        "study": plan.digest(),
        "study_name": plan.name,
        "round": 1,
        "purpose": "survey",
        "model_sha256": NO_MODEL,
        "privacy": protections(plan),
        "counts": {name: bucket(float(n)) for name, n in counts.items()},
    }
