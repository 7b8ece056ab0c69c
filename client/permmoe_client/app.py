"""The site's Flower app. `node_config["site-config"]` names the site's YAML file (permmoe_client.site.SiteConfig).

Whatever goes wrong here reaches the coordinator as the name of an exception's type and nothing else: texts and
tracebacks may name patients and paths. The site's own log gets the reason (permmoe_client.own_log).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from permmoe.errors import ConfigurationError
from permmoe.federated.approval_question import APPROVAL_QUERY, ApprovalAnswer, read_question, write_answer
from permmoe.federated.audit import Kind
from permmoe.federated.instructions import Instruction, read_instruction, read_receipt_line
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import read_head
from permmoe.federated.secure.blocks import (
    Numbers,
    evaluation_blocks,
    evaluation_numbers,
    training_blocks,
    training_numbers,
)
from permmoe.federated.secure.session import Blocks
from permmoe.federated.summed_scores import severity_groups
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import NO_MODEL, SURVEY_QUERY, read_survey, survey_blocks, survey_numbers
from permmoe.federated.trained_modules import trained_modules
from permmoe_client.connection.identity import load_certificate
from permmoe_client.own_log import reason
from permmoe_client.participation import secure_session
from permmoe_client.participation.announced_model import require_announced
from permmoe_client.participation.kept_training import KeptTraining
from permmoe_client.participation.local_round import evaluate_round, train_round
from permmoe_client.participation.privacy_account import check_policy
from permmoe_client.participation.query_order import purpose_of
from permmoe_client.participation.running_site import RunningSite, RunningSites
from permmoe_client.participation.secure_session import SessionTerms, Stage, check_terms
from permmoe_client.participation.summed_sites import enter_sum
from permmoe_client.participation.survey import count_patients
from permmoe_client.release.approval import StudyNotApproved, remember_pending, require_approval
from permmoe_client.release.outbox import (
    enter,
    evaluation_facts,
    released,
    send_evaluation,
    send_training,
    training_facts,
)
from permmoe_client.release.survey_outbox import send_survey, survey_facts

LOG = logging.getLogger("permmoe.client")
SITES = RunningSites()
"""The sites that this process runs. Flower finds the app below by its name, so they cannot be passed in. Besides them
only what Flower keeps for a node (`Context.state`) lasts from one message to the next."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    return _answer(message, context, partial(_train, state=context.state))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a model."""
    return _answer(message, context, partial(_evaluate, state=context.state))


@app.query(APPROVAL_QUERY)
def approval(message: Message, context: Context) -> Message:
    """Say whether this site has approved a study."""
    return _answer(message, context, _say_approval)


@app.query(SURVEY_QUERY)
def survey(message: Message, context: Context) -> Message:
    """Count the site's patients, for a survey."""
    return _answer(message, context, _survey)


@app.query("secure_share")
def secure_share(message: Message, context: Context) -> Message:
    """Stage 2 of the secure sum: send sealed shares of the site's secrets to the other participants."""
    return _answer_stage(message, context, secure_session.share)


@app.query("secure_mask")
def secure_mask(message: Message, context: Context) -> Message:
    """Stage 3 of the secure sum: send the masked input."""
    return _answer_stage(message, context, secure_session.mask)


@app.query("secure_count")
def secure_count(message: Message, context: Context) -> Message:
    """Stage 4 of the secure sum: send what shows how many participants hold each block."""
    return _answer_stage(message, context, secure_session.count)


@app.query("secure_open")
def secure_open(message: Message, context: Context) -> Message:
    """Stage 5 of the secure sum: send what unmasks the sums of blocks with enough holders."""
    return _answer_stage(message, context, secure_session.unmask)


def _say_approval(content: RecordDict, site: RunningSite) -> RecordDict:
    """A study that is asked about can be seen and approved from then on, as one that was refused."""
    plan = read_question(content)
    try:
        _check_approval(plan, site)
    except StudyNotApproved:
        return write_answer(ApprovalAnswer(has_approved=False))
    return write_answer(ApprovalAnswer(has_approved=True))


def _train(content: RecordDict, site: RunningSite, state: RecordDict) -> RecordDict:
    instruction = _checked_instruction(content, site, "training")
    policy, kept = site.settings.release, KeptTraining.of(site, instruction)
    if not instruction.plan.federation.secure:
        reply = train_round(instruction, content, site, state, kept)
        sent = send_training(reply, instruction, policy, site.ledger)
        kept.finish(replace(reply, head=read_head(sent, site.settings.name)))
        return sent
    if (given := secure_session.answered(content, site.session)) is not None:
        return given
    terms = check_terms(instruction, content, site.settings, site.ledger, "training")
    reply = train_round(instruction, content, site, state, kept)
    kept.finish(reply)
    reply = released(reply, policy)
    facts = training_facts(reply, instruction)
    layout = site.layout(instruction.plan)
    blocks = training_blocks(layout, trained_modules(instruction.plan, instruction.round, layout.modules))
    return _begin_sum(site, content, terms, blocks, training_numbers(reply), "training", facts)


def _evaluate(content: RecordDict, site: RunningSite, state: RecordDict) -> RecordDict:
    instruction = _checked_instruction(content, site, "evaluation")
    if instruction.part == "test":
        # All trainings of the study have been answered.
        KeptTraining.of(site, instruction).forget()
    if not instruction.plan.federation.secure:
        reply = evaluate_round(instruction, content, site, state)
        return send_evaluation(reply, instruction, site.settings.release, site.ledger)
    if (given := secure_session.answered(content, site.session)) is not None:
        return given
    terms = check_terms(instruction, content, site.settings, site.ledger, "evaluation")
    reply = evaluate_round(instruction, content, site, state)
    blocks = evaluation_blocks(instruction.plan, instruction.part)
    numbers = evaluation_numbers(reply, severity_groups(instruction.plan, instruction.part))
    return _begin_sum(site, content, terms, blocks, numbers, "evaluation", evaluation_facts(reply, instruction))


def _survey(content: RecordDict, site: RunningSite) -> RecordDict:
    plan = read_survey(content)
    # "Nothing of the site's data is read for a study that it has not approved."
    _check_approval(plan, site)
    check_policy(plan, site.settings, site.ledger)
    _keep_receipt(content, site)
    if not plan.federation.secure:
        counted = count_patients(plan, site.settings, site.ledger)
        return send_survey(counted.counts, plan, site.settings, site.ledger)
    if (given := secure_session.answered(content, site.session)) is not None:
        return given
    terms = check_terms(Instruction(plan, 1, NO_MODEL), content, site.settings, site.ledger, "survey")
    counts, facts = count_patients(plan, site.settings, site.ledger).counts, Facts.of(plan)
    numbers = survey_numbers(facts, counts)
    return _begin_sum(site, content, terms, survey_blocks(facts), numbers, "survey", survey_facts(counts, plan))


def _begin_sum(
    site: RunningSite,
    content: RecordDict,
    terms: SessionTerms,
    blocks: Blocks,
    numbers: Numbers,
    kind: Kind,
    facts: Mapping[str, object],
) -> RecordDict:
    """Stage 1 of the secure sum: send an advertisement. An earlier session of this site ends here.

    The ledger's entries are written when the masked input, and the keys to the sum, are about to leave.
    """
    ledger, policy = site.ledger, site.settings.release
    assert ledger
    entry = {**facts, "roster": terms.roster_serial}
    site.session, advertisement = secure_session.begin(
        site.settings,
        content,
        terms,
        blocks,
        numbers,
        lambda size: enter(ledger, kind, entry, size, policy),
        lambda sites: enter_sum(ledger, facts, sites),
    )
    return advertisement


def _answer_stage(message: Message, context: Context, stage: Stage) -> Message:
    return _answer(message, context, lambda content, site: secure_session.answer(stage, content, site.session))


def _answer(message: Message, context: Context, work: Callable[[RecordDict, RunningSite], RecordDict]) -> Message:
    site: RunningSite | None = None
    try:
        if "site-config" not in context.node_config:
            raise ConfigurationError("the node's configuration lacks 'site-config', the path of the site's YAML file")
        site = SITES.at(Path(str(context.node_config["site-config"])))
        return Message(work(message.content, site), reply_to=message)
    except Exception as error:
        LOG.error("%s", reason(error, site.settings if site else None))
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)


def _checked_instruction(content: RecordDict, site: RunningSite, kind: Kind) -> Instruction:
    """The instruction of a study that this site approved, whose model was announced; its receipt is kept."""
    instruction = read_instruction(content)
    # "Nothing of the site's data is read for a study that it has not approved."
    _check_approval(instruction.plan, site)
    if site.ledger is None or site.settings.coordinator is None:
        return instruction
    authority = load_certificate(site.settings.coordinator.authority)
    _keep_receipt(content, site)
    purpose, seen = purpose_of(kind, instruction), site.ledger.newest_head(instruction.plan.digest())
    return require_announced(instruction, purpose, authority, seen)


def _keep_receipt(content: RecordDict, site: RunningSite) -> None:
    """Keep the receipt for this site's ledger that came with a message, if any. Raises AuditError, LedgerError."""
    line = read_receipt_line(content, site.settings.name)
    if line and site.ledger and site.settings.coordinator:
        site.ledger.keep_receipt(line, load_certificate(site.settings.coordinator.authority))


def _check_approval(plan: RoundPlan, site: RunningSite) -> None:
    try:
        require_approval(plan, site.settings.approved_studies, site.ledger.decisions() if site.ledger else ())
    except StudyNotApproved:
        if site.settings.ledger and remember_pending(site.settings.ledger, plan):
            LOG.info("study %s waits for this site's approval: permmoe-client approve", plan.digest())
        raise
