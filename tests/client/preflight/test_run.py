"""The preflight as a whole: a good site passes, and each fault is found by the check that is for it and by no other."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from permmoe.config import ModelConfig
from permmoe_client.preflight.report import Verdict
from permmoe_client.preflight.run import CONFIGURATION, preflight
from tests.support.preflight_faults import FAULTS, names_encoders
from tests.support.preflight_hospital import (
    SUBJECTS,
    Hospital,
    subject,
)
from tests.support.preflight_reports import IDS, shown, wrong


def test_a_good_site_passes_every_check(hospital: Hospital) -> None:
    report = hospital.check()
    assert [(f.check, f.detail) for f in report.findings if f.verdict is not Verdict.OK] == []
    assert len(report.findings) >= 40 and report.exit_code == 0
    assert [f.check for f in report.findings] == IDS and not any(f.remedy for f in report.findings)
    assert shown(report).rstrip().endswith(f"All {len(IDS)} checks passed: this site can take part.")


def test_every_check_has_a_fault_that_it_is_for() -> None:
    assert {check for check, _, _ in FAULTS} == set(IDS)
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize(
    ("check", "verdict", "fault"), FAULTS, ids=[f"{check}-{i}" for i, (check, _, _) in enumerate(FAULTS)]
)
def test_a_fault_is_found_by_its_check_alone_and_names_no_subject(
    check: str, verdict: Verdict, fault: Callable[[Hospital], object], hospital: Hospital
) -> None:
    fault(hospital)
    report = hospital.check()
    assert {(f.check, f.verdict) for f in report.findings if f.check in wrong(report)} == {(check, verdict)}
    found = next(f for f in report.findings if f.check == check)
    assert found.detail and found.remedy and found.remedy.splitlines()[0] in shown(report)
    assert report.exit_code == {Verdict.WARNING: 1, Verdict.FAILED: 2}[verdict]
    for text in (report.to_json(), shown(report)):
        assert not [name for name in SUBJECTS if name in text]


def test_a_site_that_has_the_file_of_encoders_passes_and_before_the_approval_is_only_warned_without_it(
    hospital: Hospital,
) -> None:
    file = names_encoders(hospital)
    assert not wrong(hospital.check())
    file.unlink()
    # The digest says which file it is, and the folder where it goes.
    [found] = [f for f in hospital.check().findings if f.check == "studies.encoders"]
    assert found.verdict is Verdict.FAILED and str(file.parent) in found.remedy and "SHA-256" in found.remedy
    names_encoders(hospital, is_approved=False).unlink()
    [found] = [f for f in hospital.check().findings if f.check == "studies.encoders"]
    assert found.verdict is Verdict.WARNING and file.name in found.detail


def test_a_kit_whose_files_are_dated_1980_is_as_old_as_its_certificate(hospital: Hospital) -> None:
    os.utime(hospital.folder / "roster.signed.json", (315532800, 315532800))
    [age] = [finding for finding in hospital.check().findings if finding.check == "federation.roster_age"]
    assert age.verdict is Verdict.OK and "1980" not in age.detail


def test_offline_asks_nothing_of_the_network(hospital: Hospital) -> None:
    def reach(*_: object) -> None:
        raise AssertionError("the network was asked")

    hospital.machine(resolve=reach, connect=reach)
    report = hospital.check(offline=True)
    skipped = {f.check: f.detail for f in report.findings if f.verdict is Verdict.SKIPPED}
    assert {"network.resolves", "network.issuer", "network.health"} < skipped.keys() and report.exit_code == 0
    assert all(check.startswith("network.") for check in skipped)
    assert set(skipped.values()) == {"nothing is asked of the network while offline"}


def test_a_check_changes_no_file(hospital: Hospital) -> None:
    def state() -> dict[str, tuple[int, int, bytes]]:
        return {
            str(p): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
            for p in sorted(hospital.folder.rglob("*"))
        }

    before = state()
    hospital.check()
    assert state() == before
    assert stat.S_IMODE((hospital.folder / "node.key").stat().st_mode) == 0o600


def test_the_model_is_that_of_the_approved_study_or_the_default(hospital: Hospital) -> None:
    assert wrong(hospital.check(offline=True)) == set()
    hospital.settings(approved_studies=["0" * 64])
    report = hospital.check(offline=True)
    missing = next(f.detail for f in report.findings if f.check == "data.columns")
    assert wrong(report) == {"data.columns", "studies.waiting"}
    assert all(name in missing for name in set(ModelConfig().names) - {"t1"})


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"- a\n- b\n", b"name: [", b"? [a]\n: b\n", b"name: north\n", b"a: &a [*a]\n", b"{" * 3000],
)
def test_settings_that_cannot_be_read_are_a_finding_and_all_else_is_skipped(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(content)
    report = preflight(path, offline=True)
    assert report.findings[0].check == CONFIGURATION and report.findings[0].verdict is Verdict.FAILED
    assert {f.verdict for f in report.findings[1:]} == {Verdict.SKIPPED} and report.exit_code == 2
    assert [f.check for f in report.findings] == IDS


def test_a_table_of_patients_named_as_settings_is_not_quoted(hospital: Hospital) -> None:
    table = hospital.folder / "manifest.csv"
    table.write_text(f"subject_id: {subject(0)}: {subject(1)}\n")
    report = preflight(table, offline=True)
    assert wrong(report) == {CONFIGURATION} and subject(0) not in report.to_json() + shown(report)
    assert subject(0) in report.to_json(with_items=True)


def test_settings_that_do_not_exist_are_named(tmp_path: Path) -> None:
    report = preflight(tmp_path / "site.yaml", offline=True)
    assert str(tmp_path / "site.yaml") in report.findings[0].detail and report.exit_code == 2


def test_a_check_that_stumbles_is_a_finding_and_hides_no_other(hospital: Hospital) -> None:
    def stumble() -> int:
        raise ZeroDivisionError(subject(3))

    hospital.machine(umask=stumble)
    report = hospital.check(offline=True)
    assert wrong(report) == {"machine.umask"} and subject(3) not in report.to_json()


def test_whatever_stops_the_gathering_is_a_finding(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise MemoryError(subject(3))

    monkeypatch.setattr("permmoe_client.preflight.run.gather", stumble)
    report = hospital.check()
    assert wrong(report) == {CONFIGURATION} and "MemoryError" in report.findings[0].detail
    assert subject(3) not in report.to_json()


def test_a_check_without_images_opens_none_and_says_so(hospital: Hospital) -> None:
    for image in hospital.folder.rglob("*.nii*"):
        image.write_bytes(b"no image")
    findings = {f.check: f for f in hospital.check(images=False).findings}
    images = [finding for check, finding in findings.items() if check.startswith("data.image_")]
    assert images and all(f.verdict is Verdict.SKIPPED and "--no-images" in f.remedy for f in images)
    assert findings["data.readable"].verdict is Verdict.OK


def test_a_report_shows_words_of_others_without_what_a_terminal_obeys(hospital: Hospital) -> None:
    hospital.settings(coordinator={"certificate": "site\x1b[2J.crt"})
    hospital.machine(environment={"HTTPS_PROXY": "http://proxy"})
    assert "\x1b[2J" not in shown(hospital.check())
