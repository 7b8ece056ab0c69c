"""The names by which sites decline a round are the names of errors that they raise, and each has a sentence."""

from __future__ import annotations

import pytest

from permmoe.errors import DeviceUnusable
from permmoe.federated.plausibility import ImplausibleModel
from permmoe.federated.refusals import REFUSAL_SENTENCES, Refusal
from permmoe.federated.secure.session import SecureSumRefused
from permmoe_client.participation.announced_model import ModelNotAnnounced
from permmoe_client.participation.privacy_account import BudgetSpent
from permmoe_client.participation.query_order import QueryRefused
from permmoe_client.participation.secure_session import AlreadyAnswered
from permmoe_client.release.approval import StudyNotApproved
from permmoe_client.release.ledger import LedgerError
from permmoe_client.release.outbox import NotReleased
from permmoe_server.protocol.rules import SITE_ERROR, reply_reason

ERRORS = (
    StudyNotApproved, NotReleased, BudgetSpent, LedgerError, AlreadyAnswered, SecureSumRefused, QueryRefused,
    ImplausibleModel, ModelNotAnnounced, DeviceUnusable,
)  # fmt: skip


def test_every_refusal_is_an_error_that_a_site_can_raise() -> None:
    assert {error.__name__ for error in ERRORS} == {refusal.value for refusal in Refusal}


@pytest.mark.parametrize("refusal", Refusal)
def test_the_coordinator_shows_a_refusal_by_its_own_sentence(refusal: Refusal) -> None:
    assert reply_reason(refusal.value) == REFUSAL_SENTENCES[refusal] != SITE_ERROR
