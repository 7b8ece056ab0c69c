"""What was left out, as findings: each reason is the matter of one check, which says what to do next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason, Remedy
from permmoe_client.preflight import data, images
from permmoe_client.preflight.facts import gather
from permmoe_client.preflight.report import Verdict
from permmoe_client.site import read_site
from tests.support.preflight_hospital import Hospital

OF_IMAGES = {Remedy.COPY, Remedy.CONVERT_SERIES, Remedy.CONVERT_FROM_DICOM, Remedy.LOOK}
CHECKS = [
    check
    for check in (*data.CHECKS, *images.CHECKS)
    if check.id in ("data.left_out", "data.scores", "data.files") or check.id.startswith("data.image_")
]


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_the_matter_of_one_check_that_says_what_to_do(reason: Reason, hospital: Hospital) -> None:
    facts = gather(hospital.path, read_site(hospital.path), offline=True, model=None, world=hospital.world)
    item = Quarantine((Quarantined("x", "t1", "x.nii", reason),))
    where = {Remedy.PREPARE: "unlike"}.get(reason.remedy, "broken" if reason.remedy in OF_IMAGES else "left_out")
    spoilt = replace(facts, cohort=replace(facts.cohort, **{where: item}))
    [found] = [outcome for check in CHECKS if (outcome := check.judge(spoilt)).verdict is not Verdict.OK]
    assert found.remedy.startswith(reason.remedy) and str(reason) in found.detail
