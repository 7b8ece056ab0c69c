"""What a coordinator that has just started says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.federated.plan import RoundPlan
from permmoe.federated.roster import Roster
from permmoe_server.coordination.site_reports import first_status
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.studies.study_folder import Study
from tests.support.judged_models import tiny_evaluation
from tests.support.tiny_federation import MODEL, tiny_plan

ROSTER = Roster(federation="Tiny", serial=3)
SURVEY = RoundPlan.model_validate({"model": MODEL, "survey": {}})


def started(plan: RoundPlan | None) -> CoordinatorStatus:
    return first_status(ROSTER, Study(plan, Path("nowhere")) if plan else None)


@pytest.mark.parametrize(
    ("plan", "trains_nothing"), [(tiny_evaluation(), True), (SURVEY, True), (tiny_plan(), False), (None, False)]
)
def test_the_first_status_says_whether_the_study_trains(plan: RoundPlan | None, trains_nothing: bool) -> None:
    assert started(plan).trains_nothing == trains_nothing
    assert started(plan).study_digest == (plan.digest() if plan else None)
