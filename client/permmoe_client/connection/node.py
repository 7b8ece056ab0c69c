"""The site's one long-lived process: wait for instructions, let the ClientApp answer them, send the answers.

It runs only what is installed here, opens no port, and comes back by itself: from a coordinator that is away, a
network that is gone, an instruction that fails.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from permmoe.errors import ConfigurationError
from permmoe.federated.approval_question import APPROVAL_MESSAGE
from permmoe.runtime.command_line import installed_version
from permmoe_client.app import app
from permmoe_client.connection.fleet import BadMessage, Fleet, Refused, Unreachable, Untrusted, connect
from permmoe_client.connection.identity import check_roster, client_context, load_key, open_ledger
from permmoe_client.connection.impostor import who_answers
from permmoe_client.connection.renewal import RENEWAL_SECONDS, renew
from permmoe_client.connection.route import proxy_for
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import Coordinator, read_site

LOG = logging.getLogger("permmoe.client")

SHORTEST_WAIT_SECONDS, AWAY_POLL_SECONDS = 0.2, 1.0
"""From one request for a message to the next at least, and while the coordinator does not answer them."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Pauses between two attempts to connect; each is twice the one before."""


@dataclass
class Presence:
    """Whether the site is connected, for health probes; written by the node, read by anyone."""

    is_connected: bool = field(default=False)


def run_node(path: Path, stop: threading.Event, presence: Presence | None = None) -> None:
    """Take part in the federation until `stop` is set. `path` is the site's YAML file.

    Raises ConfigurationError for settings that cannot connect, RosterError for a roster that is not the coordinator's,
    LedgerError for a ledger that lacks what the coordinator has a receipt for; everything that may pass is waited out.
    """
    presence = presence or Presence()
    site = read_site(path)
    coordinator = site.coordinator
    if coordinator is None:
        raise ConfigurationError(f"{path} has no 'coordinator'; take that part from the site.yaml of your kit")
    check_roster(coordinator, site.name)
    ledger = open_ledger(site)
    assert ledger
    LOG.info("%s", ledger.state_in_words())
    key = load_key(coordinator.key)
    proxy = proxy_for(coordinator, os.environ)
    where = f"{coordinator.host}:{coordinator.port}" + (f" by way of the proxy {proxy}" if proxy else "")
    pause = FIRST_PAUSE_SECONDS
    # What Flower's own node would keep for a study: here for as long as this process lives.
    state = RecordDict()
    while not stop.is_set():
        # Read anew for each connection: a certificate may have been renewed.
        tls = client_context(coordinator)
        try:
            with connect(coordinator.host, coordinator.port, tls, key, stop, proxy) as fleet:
                LOG.info("connected to %s", where)
                presence.is_connected, pause = True, FIRST_PAUSE_SECONDS
                _serve(fleet, path, state, stop, partial(_renew, fleet, coordinator, site.name, ledger))
        except Unreachable as error:
            reason = (isinstance(error, Untrusted) and who_answers(coordinator, proxy)) or str(error)
            LOG.warning("%s cannot be reached (%s); trying again in %.0f s", where, reason, pause)
        except Refused as error:
            LOG.warning(
                "%s refused this site (%s): its key is not registered, or an earlier connection still counts (up to "
                "20 s); trying again in %.0f s",
                where, error, pause,
            )  # fmt: skip
        finally:
            presence.is_connected = False
        stop.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    LOG.info("stopped")


def _renew(fleet: Fleet, coordinator: Coordinator, name: str, ledger: Ledger) -> bool:
    """Fetch a newer certificate and roster; return whether the connection has to be made anew, with the certificate."""
    version = installed_version()
    try:
        return renew(coordinator, name, ledger, lambda: fleet.papers(version), version, datetime.now(UTC))
    except (Unreachable, Refused) as error:
        LOG.warning("the coordinator could not be asked for a newer certificate and roster (%s)", error)
        return False


def _serve(fleet: Fleet, path: Path, state: RecordDict, stop: threading.Event, renew: Callable[[], bool]) -> None:
    """Answer messages until `stop` is set, or `renew`, which is called from time to time, has a new certificate.

    Raises Refused where the connection no longer counts.
    """
    renew_at = time.monotonic()
    is_away = False
    while not stop.is_set():
        if time.monotonic() >= renew_at:
            renew_at = time.monotonic() + RENEWAL_SECONDS
            if renew():
                return
        asked_at = time.monotonic()
        try:
            message = fleet.receive()
        except BadMessage as error:
            LOG.error("what came from the coordinator is no message (%s); it is passed over", error)
            stop.wait(AWAY_POLL_SECONDS)
            continue
        except Unreachable as error:
            if not is_away:
                LOG.warning("the coordinator is away (%s); asking again every %.0f s", error, AWAY_POLL_SECONDS)
            is_away = True
            stop.wait(AWAY_POLL_SECONDS)
            continue
        if is_away:
            LOG.info("the coordinator is back")
            is_away = False
        if message is None:
            # The coordinator has let this site wait; one that did not is not asked without a pause.
            stop.wait(max(asked_at + SHORTEST_WAIT_SECONDS - time.monotonic(), 0.0))
            continue
        _answer(fleet, message, path, state)


def _answer(fleet: Fleet, message: Message, path: Path, state: RecordDict) -> None:
    kind, number = message.metadata.message_type, message.metadata.group_id
    # A study that waits for approvals asks for weeks.
    level = logging.DEBUG if kind == APPROVAL_MESSAGE else logging.INFO
    LOG.log(level, "round %s: %s", number, kind)
    started = time.monotonic()
    context = Context(
        run_id=message.metadata.run_id,
        node_id=fleet.node_id,
        node_config={"site-config": str(path)},
        state=state,
        run_config={},
    )
    try:
        reply = app(message, context)
    except Exception as error:
        # An instruction of a kind that this version does not know ends here, before the app's own guard.
        LOG.error("round %s: %s cannot be answered here (%s)", number, kind, type(error).__name__)
        reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__), reply_to=message)
    seconds = time.monotonic() - started
    try:
        fleet.send(reply, seconds)
    except (Unreachable, Refused) as error:
        LOG.warning("round %s: the answer to %s came too late or could not be sent (%s)", number, kind, error)
    else:
        LOG.log(level, "round %s: %s answered after %.1f s", number, kind, seconds)
