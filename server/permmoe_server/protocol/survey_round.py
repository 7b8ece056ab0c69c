"""One try at a survey: ask every site that is connected, and add up what they tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import nan

from flwr.app import RecordDict

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import Receipt
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import content_bytes
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import (
    NO_MODEL,
    SURVEY_MESSAGE,
    SurveyReply,
    answers,
    read_survey_reply,
    read_survey_sum,
    survey_blocks,
    write_survey,
)
from permmoe_server.protocol.acceptance import RejectedReply, distrusted
from permmoe_server.protocol.exchange import content_of, exchange
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.quarantine import QUARANTINED
from permmoe_server.protocol.round_records import RoundRecord, SecureFigures, SiteRecord, TrainingRecord
from permmoe_server.protocol.secure_round import site_record
from permmoe_server.protocol.secure_stages import SumTask, new_session, sum_securely
from permmoe_server.protocol.survey_told import Told


@dataclass(frozen=True)
class SurveyOutcome:
    """How a try ended."""

    told: Told | None
    """None where too few sites answered."""
    record: RoundRecord
    receipts: Mapping[str, Receipt]


def ask_survey(federation: Federation, plan: RoundPlan, receipts: Mapping[str, Receipt]) -> SurveyOutcome:
    """Ask all connected sites. Raises ConfigurationError for a secure survey without a roster."""
    return (_ask_securely if plan.federation.secure else _ask_plainly)(federation, plan, receipts)


def _ask_plainly(federation: Federation, plan: RoundPlan, receipts: Mapping[str, Receipt]) -> SurveyOutcome:
    facts, started = Facts.of(plan), federation.clock.now()
    content = write_survey(plan, receipts.values())
    sites, known = federation.connected(), dict(receipts)
    records = [SiteRecord(node, sites.name(node) or "", rejected=QUARANTINED) for node in sites.quarantined]
    by_site: dict[str, Mapping[str, int]] = {}
    contents = dict.fromkeys(sites.nodes, content)
    for node, message in exchange(federation, contents, SURVEY_MESSAGE, "1", plan.federation.round_deadline_seconds):
        record = SiteRecord(node, sites.name(node) or "", content_bytes(content))
        try:
            came = content_of(message)
            with distrusted():
                record = replace(record, bytes_up=content_bytes(came))
            reply = accept_survey(came, plan, facts, by_site, sites.name(node))
        except RejectedReply as rejection:
            federation.quarantine.note(sites.sender(node), rejection.rule)
            records.append(replace(record, rejected=rejection.rule))
            continue
        by_site[reply.site] = answers(facts, reply.counts)
        known = federation.countersigned(known, [reply.head])
        records.append(replace(record, site=reply.site, ledger=reply.head.digest if reply.head else ""))
    told = None
    if len(by_site) >= plan.federation.least_sites:
        total, hospitals = Counter[str](), Counter[str]()
        for own in by_site.values():
            total.update(own)
            hospitals.update(own.keys())
        told = Told(dict(total), dict(hospitals), tuple(sorted(by_site)))
    record_ = _record(records, told, federation.clock.now() - started)
    return SurveyOutcome(told, record_, known)


def _ask_securely(federation: Federation, plan: RoundPlan, receipts: Mapping[str, Receipt]) -> SurveyOutcome:
    if federation.roster is None:
        raise ConfigurationError("the survey is secure, so the coordinator needs the federation's signed roster")
    facts, started = Facts.of(plan), federation.clock.now()
    task = SumTask(
        new_session(plan.digest(), "survey", 1, NO_MODEL),
        write_survey(plan, receipts.values()),
        SURVEY_MESSAGE,
        survey_blocks(facts),
    )
    outcome = sum_securely(federation, task, plan.federation, federation.roster())
    told = Told(read_survey_sum(outcome.unmasked), sites=outcome.arrived) if outcome.unmasked else None
    records = [site_record(participant, outcome.arrived) for participant in outcome.participants]
    secure = SecureFigures(is_used_up=outcome.is_used_up and told is None)
    heads = [participant.head for participant in outcome.participants]
    record = _record(records, told, federation.clock.now() - started, secure)
    return SurveyOutcome(told, record, federation.countersigned(receipts, heads))


def accept_survey(
    content: RecordDict, plan: RoundPlan, facts: Facts, answered: Collection[str], sender: str | None
) -> SurveyReply:
    """Read a site's numbers and check every rule. Raises RejectedReply.

    `answered` names the sites whose replies were accepted before; `sender` is the site whose key sent the reply, None
    where that is unknown.
    """
    with distrusted():
        reply = read_survey_reply(content)
    # "A site speaks in its own name."
    if sender is not None and reply.site != sender:
        raise RejectedReply("wrong_site")
    # "A reply answers this survey."
    if reply.study != plan.digest():
        raise RejectedReply("wrong_survey")
    # "A site counts once, however many nodes speak in its name."
    if reply.site in answered:
        raise RejectedReply("duplicate_reply")
    # "Numbers are of what the survey asks for, and of min_cell_count patients or more."
    known = survey_blocks(facts)
    federation = plan.federation
    if not all(name in known for name in reply.counts):
        raise RejectedReply("survey_counts")
    if not all(federation.min_cell_count <= n <= federation.max_support for n in reply.counts.values()):
        raise RejectedReply("survey_counts")
    return reply


def _record(
    sites: list[SiteRecord], told: Told | None, seconds: float, secure: SecureFigures | None = None
) -> RoundRecord:
    """The record of a try, as of a round in which nothing was trained."""
    in_order = tuple(sorted(sites, key=lambda site: (site.site, site.node)))
    return RoundRecord(1, told is not None, TrainingRecord(in_order, nan, 0.0, {}, secure), seconds)
