"""The site's Flower app. `node_config["site-config"]` names the site's YAML file (permmoe_client.site.SiteConfig).

Whatever goes wrong here reaches the coordinator as the name of an exception's type and nothing else: texts and
tracebacks may name patients and paths. The site's own log gets the type and the line of code.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import AuditError, Kind
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import Instruction, read_instruction, read_receipt_line
from permmoe.federated.secure.blocks import (
    evaluation_blocks,
    evaluation_numbers,
    training_blocks,
    training_numbers,
)
from permmoe.federated.secure.secure_sum import Blocks, SecureSumRefused
from permmoe_client.connection.identity import load_certificate, open_ledger
from permmoe_client.participation import secure_session as secure
from permmoe_client.participation.local_round import evaluate_round, model_layout, train_round
from permmoe_client.participation.privacy_account import BudgetSpent
from permmoe_client.release.approval import StudyNotApproved, remember_pending, require_approval
from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.outbox import (
    NotReleased,
    enter,
    evaluation_facts,
    released,
    send_evaluation,
    send_training,
    training_facts,
)
from permmoe_client.site import SiteConfig, read_site

LOG = logging.getLogger("permmoe.client")

VERDICTS = (
    StudyNotApproved,
    NotReleased,
    LedgerError,
    AuditError,
    SecureSumRefused,
    secure.AlreadyAnswered,
    BudgetSpent,
)
"""Errors whose texts are our own: they name no patient and no path of data."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    return _answer(message, context, partial(_train, state=context.state))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a model."""
    return _answer(message, context, partial(_evaluate, state=context.state))


@app.query("secure_share")
def secure_share(message: Message, context: Context) -> Message:
    """The secure sum's second stage."""
    return _answer(message, context, secure.share)


@app.query("secure_mask")
def secure_mask(message: Message, context: Context) -> Message:
    """Its third."""
    return _answer(message, context, secure.mask)


@app.query("secure_count")
def secure_count(message: Message, context: Context) -> Message:
    """Its fourth."""
    return _answer(message, context, secure.count)


@app.query("secure_open")
def secure_open(message: Message, context: Context) -> Message:
    """Its fifth."""
    return _answer(message, context, secure.open_blocks)


def _train(content: RecordDict, site: SiteConfig, state: RecordDict) -> RecordDict:
    asked, ledger = _approved(content, site)
    if not asked.plan.federation.secure:
        return send_training(train_round(asked, content, site, ledger, state), asked, site.release, ledger)
    ground = secure.check_ground(asked, content, site, ledger, "training")
    # The secure sum sends every site the whole model, whatever it holds: nothing is kept for it.
    reply = released(train_round(asked, content, site, ledger), site.release)
    facts = training_facts(reply, asked)
    blocks = training_blocks(model_layout(asked.plan.model))
    return _begin_sum(site, ledger, ground, blocks, training_numbers(reply), "training", facts)


def _evaluate(content: RecordDict, site: SiteConfig, state: RecordDict) -> RecordDict:
    asked, ledger = _approved(content, site)
    if not asked.plan.federation.secure:
        return send_evaluation(evaluate_round(asked, content, site, state), asked, site.release, ledger)
    ground = secure.check_ground(asked, content, site, ledger, "evaluation")
    reply = evaluate_round(asked, content, site)
    blocks = evaluation_blocks(asked.plan.model.names)
    facts = evaluation_facts(reply, asked)
    return _begin_sum(site, ledger, ground, blocks, evaluation_numbers(reply), "evaluation", facts)


def _begin_sum(
    site: SiteConfig,
    ledger: Ledger | None,
    ground: secure.Ground,
    blocks: Blocks,
    numbers: secure.Numbers,
    kind: Kind,
    facts: Mapping[str, object],
) -> RecordDict:
    """Enter a secure sum; the ledger's entry is written when the masked input is about to leave."""
    assert ledger
    told = {**facts, "roster": ground.roster_serial}
    return secure.begin(site, ground, blocks, numbers, lambda size: enter(ledger, kind, told, size, site.release))


def _answer(message: Message, context: Context, work: Callable[[RecordDict, SiteConfig], RecordDict]) -> Message:
    try:
        if "site-config" not in context.node_config:
            raise ConfigurationError("the node's configuration lacks 'site-config', the path of the site's YAML file")
        site = read_site(Path(str(context.node_config["site-config"])))
        return Message(work(message.content, site), reply_to=message)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        LOG.error("%s in %s, line %s%s", type(error).__name__, Path(last.filename).name, last.lineno, _advice(error))
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)


def _approved(content: RecordDict, site: SiteConfig) -> tuple[Instruction, Ledger | None]:
    """What is asked, by a study that this site approved, and the site's ledger."""
    asked, ledger = read_instruction(content), open_ledger(site)
    # "Nothing of the site's data is read for a study that it has not approved."
    _check_approval(asked.plan, site, ledger)
    _keep_receipt(content, site, ledger)
    return asked, ledger


def _check_approval(plan: RoundPlan, site: SiteConfig, ledger: Ledger | None) -> None:
    try:
        require_approval(plan, site.approved_studies, ledger.decisions() if ledger else ())
    except StudyNotApproved:
        if site.ledger:
            remember_pending(site.ledger, plan)
        raise


def _keep_receipt(content: RecordDict, site: SiteConfig, ledger: Ledger | None) -> None:
    line = read_receipt_line(content, site.name)
    if line and ledger and site.coordinator:
        ledger.keep_receipt(line, load_certificate(site.coordinator.authority))


def _advice(error: Exception) -> str:
    """What the site's own log may say besides the error's type."""
    return f": {error}" if isinstance(error, VERDICTS) else ""
