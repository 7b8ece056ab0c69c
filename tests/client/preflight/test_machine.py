"""The machine that a site runs on."""

from __future__ import annotations

from datetime import timedelta

from tests.support.preflight_faults import date
from tests.support.preflight_hospital import (
    NOW,
    Hospital,
)
from tests.support.preflight_reports import wrong


def test_a_clock_may_be_minutes_behind_and_not_ahead(hospital: Hospital) -> None:
    hospital.serve(header=lambda: date(NOW))
    for seconds, is_right in ((-400, False), (-200, True), (3, True), (20, False)):
        moment = NOW + timedelta(seconds=seconds)
        hospital.machine(now=lambda moment=moment: moment)
        assert ("machine.clock" not in wrong(hospital.check())) == is_right, seconds
