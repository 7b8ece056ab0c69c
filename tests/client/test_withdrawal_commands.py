"""`permmoe-client withdraw` as its users call it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from permmoe_client.cli import app
from permmoe_client.participation.own_patients import own_patients
from permmoe_client.site import read_site
from tests.client.participation.test_folders import site_with
from tests.support.announcing_coordinator import NEWER, AnnouncingCoordinator


@pytest.fixture
def coordinator(tmp_path: Path) -> AnnouncingCoordinator:
    return AnnouncingCoordinator.of(tmp_path)


def said(site: Path, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, "--site", str(site)], input=typed)


def kinds(coordinator: AnnouncingCoordinator) -> list[str]:
    return [entry.kind for entry in coordinator.entries()]


def test_a_withdrawal_is_an_entry_whose_digest_is_for_the_coordinator(coordinator: AnnouncingCoordinator) -> None:
    result = said(coordinator.site, "withdraw", "north-3", "north-4", "--yes")
    assert result.exit_code == 0 and "2 patient(s) withdrew; entry 1 of the ledger" in result.output
    assert coordinator.entries()[0].digest() in result.output
    assert said(coordinator.site, "withdraw", "--list").output.split() == ["north-3", "north-4"]


def test_unknown_patients_are_itemised_and_nothing_is_changed(coordinator: AnnouncingCoordinator) -> None:
    result = said(coordinator.site, "withdraw", "north-3", "nobody-1", "nobody-2", "--yes")
    assert result.exit_code != 0 and "2 of 3 are unknown here, and nothing was changed" in str(result.exception)
    assert "nobody-1" in str(result.exception) and "north-3" not in str(result.exception)
    assert kinds(coordinator) == []
    assert said(coordinator.site, "withdraw", "north-3", "nobody-1", "--even-unknown", "--yes").exit_code == 0
    assert said(coordinator.site, "withdraw", "--list").output.split() == ["north-3", "nobody-1"]


def test_a_patient_whose_row_was_removed_is_known_by_the_sums_that_left(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path)
    coordinator.send(1, "training")
    coordinator.send(1, "validation", NEWER)
    manifest = read_site(coordinator.site).manifest
    assert manifest
    rows = manifest.read_text().splitlines(keepends=True)
    validated = next(iter(_evaluated(coordinator)))
    manifest.write_text("".join(row for row in rows if not row.startswith(f"{validated},")))
    assert validated not in own_patients(read_site(coordinator.site))
    assert said(coordinator.site, "withdraw", validated, "--yes").exit_code == 0


def _evaluated(coordinator: AnnouncingCoordinator) -> list[str]:
    from permmoe_client.release.patient_account import PatientAccount

    names = sorted(own_patients(read_site(coordinator.site)))
    groups = PatientAccount(coordinator.ledger).groups_of(names)
    return [name for name in names if groups[name]]


def test_patients_come_from_a_file_one_a_line(coordinator: AnnouncingCoordinator, tmp_path: Path) -> None:
    file = tmp_path / "patients.txt"
    file.write_text("\ufeffnorth-3\n\n  north-5  \nnorth-3\n", encoding="utf-8")
    assert "2 patient(s) withdrew" in said(coordinator.site, "withdraw", "--file", str(file), "--yes").output
    result = said(coordinator.site, "withdraw", "--file", str(tmp_path / "absent"), "--yes")
    assert result.exit_code != 0 and "one patient a line. Nothing was changed" in str(result.exception)
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in str(said(coordinator.site, "withdraw", "--file", str(file)).exception)


def test_nobody_named_is_an_error_and_a_no_changes_nothing(coordinator: AnnouncingCoordinator) -> None:
    assert "name patients" in str(said(coordinator.site, "withdraw", "--yes").exception)
    result = said(coordinator.site, "withdraw", "north-3", typed="n\n")
    assert result.exit_code == 1 and "nothing was changed" in result.output and kinds(coordinator) == []


def test_the_same_command_again_says_that_nothing_changed(coordinator: AnnouncingCoordinator) -> None:
    said(coordinator.site, "withdraw", "north-3", "--yes")
    result = said(coordinator.site, "withdraw", "north-3", "--yes")
    assert result.exit_code == 0 and "nothing was changed" in result.output and kinds(coordinator) == ["withdrawal"]
    assert "the others had before" in said(coordinator.site, "withdraw", "north-3", "north-4", "--yes").output


def test_what_studies_kept_at_the_site_goes_and_nothing_else_in_the_folder(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path)
    state = tmp_path / "state"
    settings = yaml.safe_load(coordinator.site.read_text())
    coordinator.site.write_text(yaml.safe_dump(settings | {"state": str(state)}))
    for folder in ("0123456789abcdef", "training", "somebodys"):
        (state / folder).mkdir(parents=True)
        (state / folder / "weights").write_text("of patients")
    assert said(coordinator.site, "withdraw", "north-3", "--yes").exit_code == 0
    assert [path.name for path in state.iterdir()] == ["somebodys"]


def test_verify_holds_the_list_against_the_ledger(coordinator: AnnouncingCoordinator) -> None:
    said(coordinator.site, "withdraw", "north-3", "--yes")
    assert "the list of 1 withdrawn patients is whole" in said(coordinator.site, "ledger", "verify").output
    assert "withdrawal" in said(coordinator.site, "ledger", "show").output
    [file] = coordinator.ledger.path.parent.glob("withdrawn-*.json")
    file.unlink()
    result = said(coordinator.site, "ledger", "verify")
    assert result.exit_code != 0 and "nobody knows who withdrew" in str(result.exception)


def test_a_whole_hospital_trains_in_no_study_any_more(coordinator: AnnouncingCoordinator) -> None:
    assert coordinator.send(1, "training").has_content()
    assert "the hospital withdrew" in said(coordinator.site, "withdraw", "--whole-hospital", "--yes").output
    assert coordinator.send(1, "training").error.reason == "DataError"
    assert kinds(coordinator).count("training") == 1
    assert "the hospital withdrew" in said(coordinator.site, "ledger", "verify").output


def test_patients_of_tables_are_known_also_where_they_have_no_visit_to_take_part_with(tmp_path: Path) -> None:
    known = own_patients(site_with(tmp_path))
    assert "011_S_0002" in known and len(known) > 1
