"""Default deny: which studies may train at a site, and what the person who decides is shown."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from permmoe.federated.plan import RoundPlan
from permmoe_client.release.approval import (
    MOST_PENDING,
    StudyNotApproved,
    is_approved,
    pending_studies,
    remember_pending,
    require_approval,
)
from permmoe_client.release.consent import changed_settings
from permmoe_client.release.ledger import Ledger
from tests.support.plan_leaves import leaves
from tests.support.tiny_federation import tiny_plan

PLAN = tiny_plan(min_cell_count=7)


def changed(path: tuple[Any, ...]) -> RoundPlan | None:
    """The plan with another value at one place; None where no other value is valid there."""
    for other in (True, False, 2, 3, 4, 0.125, 0.25, "x1", "cnn", "shared", "fedadam", "zero_fill", "volume", None):
        values = copy.deepcopy(PLAN.model_dump(mode="json"))
        place = values
        for key in path[:-1]:
            place = place[key]
        if type(place[path[-1]]) is type(other) and place[path[-1]] == other:
            continue
        place[path[-1]] = other
        try:
            plan = RoundPlan.model_validate(values)
        except ValidationError:
            continue
        if plan != PLAN:
            return plan
    return None


def test_nothing_is_approved_by_itself() -> None:
    with pytest.raises(StudyNotApproved, match=PLAN.digest()):
        require_approval(PLAN, (), ())
    require_approval(PLAN, (PLAN.digest(),), ())


def test_the_beginning_of_a_digest_approves_nothing() -> None:
    assert not is_approved(PLAN.digest(), (PLAN.digest()[:63], PLAN.digest().upper()), ())


def test_one_changed_setting_anywhere_needs_a_new_approval() -> None:
    tried = 0
    for path in leaves(PLAN.model_dump(mode="json")):
        other = changed(path)
        if other is None:
            continue
        tried += 1
        assert not is_approved(other.digest(), (PLAN.digest(),), ()), path
        assert changed_settings(PLAN, other), path
    assert tried > 60


def test_a_revocation_overrules_earlier_approvals_and_a_later_approval_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "north", ec.generate_private_key(ec.SECP384R1()))
    verdicts = []
    for kind in ("approval", "revocation", "approval"):
        ledger.append(kind, {"study": PLAN.digest()})
        verdicts.append(is_approved(PLAN.digest(), (), ledger.decisions()))
    assert verdicts == [True, False, True]
    assert not is_approved(tiny_plan(rounds=4).digest(), (), ledger.decisions())


def test_an_approval_that_this_sites_key_did_not_sign_counts_for_nothing(tmp_path: Path) -> None:
    stranger = Ledger(tmp_path, "north", ec.generate_private_key(ec.SECP384R1()))
    stranger.append("approval", {"study": PLAN.digest()})
    own = Ledger(tmp_path, "north", ec.generate_private_key(ec.SECP384R1()))
    assert own.decisions() == []


def test_refused_studies_are_kept_in_a_bounded_number(tmp_path: Path) -> None:
    for rounds in range(1, MOST_PENDING + 10):
        remember_pending(tmp_path, tiny_plan(rounds=rounds))
    assert len(pending_studies(tmp_path)) == MOST_PENDING
