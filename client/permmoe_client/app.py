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
from permmoe_client.site import SiteConfig, read_site
from permmoe_client.training import evaluate_round, train_round

LOG = logging.getLogger("permmoe.client")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    return _answer(message, context, train_round)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a model."""
    return _answer(message, context, evaluate_round)


def _answer(message: Message, context: Context, work: Callable[[RecordDict, SiteConfig], RecordDict]) -> Message:
    try:
        if "site-config" not in context.node_config:
            raise ConfigurationError("the node's configuration lacks 'site-config', the path of the site's YAML file")
        site = read_site(Path(str(context.node_config["site-config"])))
        return Message(work(message.content, site), reply_to=message)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        LOG.error("%s in %s, line %s", type(error).__name__, Path(last.filename).name, last.lineno)
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
