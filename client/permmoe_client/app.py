"""The site's Flower app. `node_config["site-config"]` names the site's YAML file (permmoe_client.site.SiteConfig).

Whatever goes wrong here reaches the coordinator as the name of an exception's type and nothing else: texts and
tracebacks may name patients and paths. The site's own log gets the type and the line of code.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import AuditError
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import Instruction, read_instruction, read_receipt_line
from permmoe_client.approval import StudyNotApproved, remember_pending, require_approval
from permmoe_client.identity import load_certificate, open_ledger
from permmoe_client.ledger import Ledger, LedgerError
from permmoe_client.outbox import NotReleased, send_evaluation, send_training
from permmoe_client.site import SiteConfig, read_site
from permmoe_client.training import evaluate_round, train_round

LOG = logging.getLogger("permmoe.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a model."""
    return _answer(message, context, _evaluate)


def _train(asked: Instruction, content: RecordDict, site: SiteConfig, ledger: Ledger | None) -> RecordDict:
    return send_training(train_round(asked, content, site), asked.plan, site.release, ledger)


def _evaluate(asked: Instruction, content: RecordDict, site: SiteConfig, ledger: Ledger | None) -> RecordDict:
    return send_evaluation(evaluate_round(asked, content, site), asked.plan, site.release, ledger)


Work = Callable[[Instruction, RecordDict, SiteConfig, Ledger | None], RecordDict]


def _answer(message: Message, context: Context, work: Work) -> Message:
    try:
        if "site-config" not in context.node_config:
            raise ConfigurationError("the node's configuration lacks 'site-config', the path of the site's YAML file")
        site = read_site(Path(str(context.node_config["site-config"])))
        asked = read_instruction(message.content)
        ledger = open_ledger(site)
        # "Nothing of the site's data is read for a study that it has not approved."
        _check_approval(asked.plan, site, ledger)
        _keep_receipt(message.content, site, ledger)
        return Message(work(asked, message.content, site, ledger), reply_to=message)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        LOG.error("%s in %s, line %s%s", type(error).__name__, Path(last.filename).name, last.lineno, _advice(error))
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)


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
    """What the site's own log may say besides: our own verdicts name no patient and no path of data."""
    return f": {error}" if isinstance(error, StudyNotApproved | NotReleased | LedgerError | AuditError) else ""
