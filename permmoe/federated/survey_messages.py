"""A survey between coordinator and site: the question, a site's numbers, and the same as blocks of a secure sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from permmoe.federated.audit import LedgerHead, Receipt
from permmoe.federated.fixed_point import ONE
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import MalformedRecord, record_of, typed
from permmoe.federated.replies import read_head
from permmoe.federated.roster import SITE_NAME
from permmoe.federated.secure.blocks import Numbers
from permmoe.federated.secure.exchanged import UnmaskedSum
from permmoe.federated.secure.session import Blocks
from permmoe.federated.survey_facts import Described, Facts

SURVEY_QUERY = "survey"
"""The name of the question among a site's queries."""
SURVEY_MESSAGE = f"query.{SURVEY_QUERY}"
"""The type of its message, as Flower writes it."""
NO_MODEL = "0" * 64
"""What stands for the digest of a model, since a survey has none."""
Counts = Mapping[str, int]
"""What is told of patients (`Described.name`) -> how many."""


@dataclass(frozen=True)
class SurveyReply:
    """A site's numbers of patients by what is told of them; no patient is in two."""

    site: str
    study: str
    """Digest of the survey."""
    counts: Counts
    head: LedgerHead | None = None
    """The newest entry of the site's ledger, which records this reply; None where the site keeps no ledger."""


def write_survey(plan: RoundPlan, receipts: Iterable[Receipt] = ()) -> RecordDict:
    """Write the question; receipts are for the ledgers of the sites they name."""
    by_site = ConfigRecord({receipt.head.site: receipt.line().decode() for receipt in receipts})
    return RecordDict({"survey": ConfigRecord({"plan": plan.canonical_json()}), "receipts": by_site})


def read_survey(content: RecordDict) -> RoundPlan:
    """Return the survey that is asked. Raises MalformedRecord."""
    try:
        plan = RoundPlan.model_validate_json(typed(record_of(content, "survey", ConfigRecord), "plan", str))
    except ValueError:
        raise MalformedRecord("plan") from None
    if plan.survey is None:
        raise MalformedRecord("plan")
    return plan


def write_survey_reply(reply: SurveyReply) -> RecordDict:
    """Write a site's numbers."""
    header = ConfigRecord({"site": reply.site, "study": reply.study})
    return RecordDict({"reply": header, "counts": MetricRecord(dict(reply.counts))})


def read_survey_reply(content: RecordDict) -> SurveyReply:
    """Return a site's numbers, of the right types; their values are not checked here. Raises MalformedRecord."""
    header = record_of(content, "reply", ConfigRecord)
    site = typed(header, "site", str)
    if not SITE_NAME.fullmatch(site):
        raise MalformedRecord("site_name")
    counts: dict[str, int] = {}
    for name, n in record_of(content, "counts", MetricRecord).items():
        if not isinstance(n, int) or isinstance(n, bool):
            raise MalformedRecord("counts")
        counts[name] = n
    return SurveyReply(site, typed(header, "study", str), counts, read_head(content, site))


def answers(facts: Facts, counts: Counts) -> dict[str, int]:
    """From numbers that no patient is twice in: how many are told to be among those of every possible question.

    With T1 and FLAIR are all of whom both are told, whatever else is. A question that nobody is told to be among is
    absent.
    """
    told = [(one, counts[one.name]) for one in facts.all_described() if counts.get(one.name)]
    sums = {asked.name: sum(n for one, n in told if one.tells(asked)) for asked in facts.all_described()}
    return {name: n for name, n in sums.items() if n}


def survey_blocks(facts: Facts) -> Blocks:
    """A block of one number for every question."""
    return {asked.name: 1 for asked in facts.all_described()}


def survey_numbers(facts: Facts, counts: Counts) -> Numbers:
    """A site's blocks: the questions that patients here are told to be among."""
    return {name: np.array([n * ONE], np.int64) for name, n in answers(facts, counts).items()}


def read_survey_sum(unmasked: UnmaskedSum) -> dict[str, int]:
    """The answers of all sites together; questions that too few sites have patients of are absent."""
    sums = {name: round(float(values[0]) / ONE) for name, values in unmasked.values.items()}
    return {name: n for name, n in sums.items() if n > 0}


def described_by_name(facts: Facts) -> dict[str, Described]:
    """Everything that may be told, by its name."""
    return {one.name: one for one in facts.all_described()}
