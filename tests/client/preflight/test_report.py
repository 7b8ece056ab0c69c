"""The report for people and for machines."""

from __future__ import annotations

import json

from tests.support.preflight_faults import repeated_subjects
from tests.support.preflight_hospital import (
    Hospital,
    subject,
)
from tests.support.preflight_reports import IDS, shown


def test_json_is_for_machines_and_has_the_same_keys_whatever_was_found(hospital: Hospital) -> None:
    good = json.loads(hospital.check().to_json())
    hospital.settings(threads=5)
    bad = json.loads(hospital.check().to_json())
    assert list(good) == list(bad) == ["format", "worst", "exit_code", "counts", "findings"]
    keys = {tuple(finding) for report in (good, bad) for finding in report["findings"]}
    assert keys == {("check", "topic", "title", "verdict", "detail", "remedy")}
    assert (good["format"], good["worst"], bad["worst"], bad["exit_code"]) == (1, "ok", "warning", 1)
    assert bad["counts"] == {"ok": len(IDS) - 1, "warning": 1, "failed": 0, "skipped": 0}


def test_subjects_are_named_on_request_only(hospital: Hospital) -> None:
    repeated_subjects(hospital)
    report = hospital.check()
    assert subject(5) in report.to_json(with_items=True) and subject(5) in shown(report, with_items=True)
    assert subject(5) not in report.to_json() + shown(report)
