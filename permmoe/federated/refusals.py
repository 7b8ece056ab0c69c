"""Why a site declines a round: the words that cross the wire, each with the sentence that the coordinator reads.

A site reports a failure as the name of its error's type and nothing else. The names here belong to decisions of the
site; their texts hold no patient and no path of data, so that the site's own log may show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Refusal(StrEnum):
    """A decision of the site; the value is the name of the site's error type, as it stands in its reply."""

    STUDY_NOT_APPROVED = "StudyNotApproved"
    NOT_RELEASED = "NotReleased"
    BUDGET_SPENT = "BudgetSpent"
    LEDGER_ERROR = "LedgerError"
    ALREADY_ANSWERED = "AlreadyAnswered"
    SECURE_SUM_REFUSED = "SecureSumRefused"
    QUERY_REFUSED = "QueryRefused"
    IMPLAUSIBLE_MODEL = "ImplausibleModel"
    MODEL_NOT_ANNOUNCED = "ModelNotAnnounced"
    DEVICE_UNUSABLE = "DeviceUnusable"


REFUSAL_SENTENCES: Mapping[Refusal, str] = MappingProxyType(
    {
        Refusal.STUDY_NOT_APPROVED: "The hospital has not approved this study yet; ask it to.",
        Refusal.NOT_RELEASED: "The hospital's release policy let nothing of it out; the site's log says why.",
        Refusal.BUDGET_SPENT: "The site's privacy budget, or the study's target, does not allow this round.",
        Refusal.LEDGER_ERROR: "The site's ledger cannot be written or believed, and nothing leaves without it.",
        Refusal.ALREADY_ANSWERED: "The site has given its input to this round before, and gives it once.",
        Refusal.QUERY_REFUSED: "The site was asked for what the study's plan does not hold, or out of turn.",
        Refusal.IMPLAUSIBLE_MODEL: "The model is not one that training could have led to; the site's log says why.",
        Refusal.SECURE_SUM_REFUSED: "The site refused: too few sites, a peer it does not know, or a rule of its own.",
        Refusal.MODEL_NOT_ANNOUNCED: "The model is not in the study's signed chain, or the site has seen another; "
        "where the study's folder was lost, start the study under another name.",
        Refusal.DEVICE_UNUSABLE: "The site's GPU is absent, full or failed, and its settings name no other device.",
    }
)
"""Refusal -> the sentence shown to the coordinator."""
