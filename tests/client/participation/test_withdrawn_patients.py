"""Patients who withdrew are in nothing that the site does, nobody else changes places, and none of them left alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import yaml
from flwr.app import MessageType

from permmoe.data.manifest import manifest_subjects
from permmoe.data.splits import Split
from permmoe.federated.packed_model import digest_of, module_digests
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import pack_updates
from permmoe.federated.survey_config import SurveyConfig
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.participation.running_site import RunningSite, RunningSites
from permmoe_client.participation.site_visits import parts_of, site_visits
from permmoe_client.participation.survey import count_patients
from permmoe_client.release.withdrawals import NOBODY_ABSENT, Absent, WithdrawalList
from permmoe_client.site import SiteConfig, read_site
from tests.support.announcing_coordinator import NEWER, AnnouncingCoordinator
from tests.support.site_messages import ask, instruction, trained
from tests.support.tiny_federation import MODEL, tiny_plan, write_site

LEAST = 5
PLAN = tiny_plan(min_cell_count=LEAST, rounds=9)


def hospital(folder: Path, plan: RoundPlan = PLAN, visits: int = 41) -> AnnouncingCoordinator:
    """A hospital whose coordinator is honest; figures leave over five patients or more."""
    coordinator = AnnouncingCoordinator.of(folder, plan)
    settings = yaml.safe_load(coordinator.site.read_text())
    write_site(folder, "north", visits=visits)
    settings["release"] = {**settings.get("release", {}), "min_cell_count": LEAST}
    coordinator.site.write_text(yaml.safe_dump(settings))
    return coordinator


def withdraw(coordinator: AnnouncingCoordinator, *subjects: str) -> None:
    WithdrawalList(coordinator.ledger).add(subjects)


def of_part(coordinator: AnnouncingCoordinator, part: Split) -> list[str]:
    parts = parts_of(read_site(coordinator.site), MODEL, None, NOBODY_ABSENT)
    return [subject for subject, own in parts.items() if own == part]


def trains(coordinator: AnnouncingCoordinator) -> set[str]:
    """Who is in the hospital's next training, as its process decides."""
    data = RunningSites().at(coordinator.site).training_visits(coordinator.plan, 1)
    return {visit.subject_id for visit in data.visits}


def test_nobody_else_moves_from_one_part_of_the_split_to_another(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north", visits=41))
    everybody = {v.subject_id: v.split for v in site_visits(site, MODEL).visits}
    for n in range(1, 41, 3):
        gone = Absent(frozenset(f"north-{i}" for i in range(n)))
        rest = {v.subject_id: v.split for v in site_visits(site, MODEL, None, gone).visits}
        assert rest == {subject: part for subject, part in everybody.items() if subject not in gone}


def test_a_training_without_a_patient_is_that_of_a_hospital_that_never_had_it_bit_by_bit(tmp_path: Path) -> None:
    """The reference: a manifest without the row, whose other rows name the parts that they had."""
    coordinator = hospital(tmp_path / "had")
    five = of_part(coordinator, "train")[:LEAST]
    withdraw(coordinator, *five)
    coordinator.send(1, "training")
    site = read_site(coordinator.site)
    parts = parts_of(site, MODEL, None, NOBODY_ABSENT)
    assert site.manifest
    header, *rows = site.manifest.read_text().splitlines()
    kept = [f"{row},{parts[row.split(',')[0]]}" for row in rows if row.split(",")[0] not in five]
    (tmp_path / "never").mkdir()
    other = write_site(tmp_path / "never", "north", release={"min_cell_count": LEAST})
    (tmp_path / "never" / "north.csv").write_text("\n".join([f"{header},split", *kept]) + "\n")
    reply = trained(other, instruction(PLAN))
    digests = [entry.facts["update_sha256"] for entry in coordinator.entries() if entry.kind == "training"]
    never = RunningSite(read_site(other)).training_visits(PLAN, 1)
    assert trains(coordinator) == {visit.subject_id for visit in never.visits}
    assert digests == [digest_of(module_digests(pack_updates(reply, "fp32")))]


def test_who_withdraws_counts_from_the_next_message_on_in_training_and_evaluation(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    coordinator.send(1, "training")
    coordinator.send(1, "validation", NEWER)
    train, validation = of_part(coordinator, "train"), of_part(coordinator, "validation")
    withdraw(coordinator, *train[:LEAST], *validation[:1])
    sites = RunningSites()
    there = {visit.subject_id for visit in sites.at(coordinator.site).visits(PLAN).visits}
    assert there == manifest_subjects(tmp_path / "north.csv") - {*train[:LEAST], *validation[:1]}
    assert trains(coordinator) == {*train[LEAST:]}
    withdraw(coordinator, *train[LEAST : 2 * LEAST])
    assert {v.subject_id for v in sites.at(coordinator.site).training_visits(PLAN, 1).visits} == {*train[2 * LEAST :]}


def test_a_patient_who_withdraws_alone_takes_others_out_of_trainings_who_stay_out(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    coordinator.send(1, "training")
    before = {*of_part(coordinator, "train")}
    one, two, *_ = sorted(before)
    withdraw(coordinator, one)
    first = trains(coordinator)
    assert one not in first and len(before) - len(first) == LEAST
    assert trains(coordinator) == first, "the same after a restart"
    left_out = before - first - {one}
    later = next(iter(left_out))
    withdraw(coordinator, later)
    assert trains(coordinator) == first, "who was left out already takes nobody along"
    withdraw(coordinator, two if two in first else sorted(first)[0])
    second = trains(coordinator)
    assert second < first and len(first - second) in (LEAST, len(first))


def test_a_patient_who_never_trained_takes_nobody_out_of_trainings(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    coordinator.send(1, "training")
    before = {*of_part(coordinator, "train")}
    withdraw(coordinator, *of_part(coordinator, "test")[:1], *of_part(coordinator, "validation")[:1])
    assert trains(coordinator) == before


def test_before_the_first_training_nobody_is_left_out_beside_who_withdraws(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    before = {*of_part(coordinator, "train")}
    withdraw(coordinator, sorted(before)[0])
    assert len(trains(coordinator)) == len(before) - 1


def test_a_patient_whose_row_was_removed_is_taken_to_have_trained(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    coordinator.send(1, "training")
    one = sorted(of_part(coordinator, "train"))[0]
    rows = (tmp_path / "north.csv").read_text().splitlines(keepends=True)
    (tmp_path / "north.csv").write_text("".join(row for row in rows if not row.startswith(f"{one},")))
    before = {*of_part(coordinator, "train")}
    withdraw(coordinator, one)
    assert len(before - trains(coordinator)) == LEAST


@pytest.mark.parametrize("seed", range(4))
def test_attack_no_two_trainings_and_no_sums_of_them_differ_by_few(seed: int, tmp_path: Path) -> None:
    """A lying coordinator compares all trainings, and all means of first rounds, around several withdrawals."""
    rng = torch.Generator().manual_seed(seed)
    plan = tiny_plan(min_cell_count=LEAST, centring_round=True, rounds=9)
    coordinator = hospital(tmp_path, plan, visits=61)
    coordinator.send(1, "training")
    names = sorted(of_part(coordinator, "train"))
    sets = [trains(coordinator)]
    for pick in torch.randperm(len(names), generator=rng)[:4].tolist():
        withdraw(coordinator, names[pick])
        sets.append(trains(coordinator))
        site = RunningSites().at(coordinator.site)
        grouped = site.in_groups(f"means {pick}", site.training_visits(plan, 1), LEAST)
        sets.append({visit.subject_id for visit in grouped.visits})
    patterns: dict[tuple[bool, ...], int] = {}
    for name in names:
        own = tuple(name in one for one in sets)
        patterns[own] = patterns.get(own, 0) + 1
    assert all(n >= LEAST for pattern, n in patterns.items() if any(pattern))
    assert len(patterns) > 1


def test_a_survey_counts_nobody_who_withdrew_and_differs_by_no_few(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    survey = RoundPlan(model=MODEL, survey=SurveyConfig(), federation={"min_cell_count": LEAST})
    site = read_site(coordinator.site)
    before = count_patients(survey, site, coordinator.ledger)
    withdraw(coordinator, "north-3")
    after = count_patients(survey, site, coordinator.ledger)
    assert before.patients == after.patients + 1
    lost = sum(before.counts.values()) - sum(after.counts.values())
    assert lost >= LEAST


def test_a_rehearsal_has_nobody_who_withdrew_and_writes_nothing(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    coordinator.send(1, "training")
    withdraw(coordinator, sorted(of_part(coordinator, "train"))[0])
    before = coordinator.ledger.path.read_bytes()
    said = dry_run(read_site(coordinator.site), coordinator.plan, tmp_path / "rehearsal")
    assert "1 patients withdrew and are in none of it" in said
    assert coordinator.ledger.path.read_bytes() == before
    trained = yaml.safe_load((tmp_path / "rehearsal" / "training.json").read_text())
    assert trained["visits"] % (len(of_part(coordinator, "train")) - LEAST) == 0


def test_no_log_names_who_withdrew_or_who_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = hospital(tmp_path)
    with caplog.at_level(logging.DEBUG):
        coordinator.send(1, "training")
        withdraw(coordinator, sorted(of_part(coordinator, "train"))[0])
        coordinator.send(2, "training", NEWER)
    assert "4 patients are left out of trainings beside 1 who withdrew" in caplog.text
    assert "north-" not in caplog.text
    assert b"north-" not in coordinator.ledger.path.read_bytes()


def test_a_list_that_is_gone_stops_every_answer(tmp_path: Path) -> None:
    coordinator = hospital(tmp_path)
    withdraw(coordinator, "north-3")
    [file] = coordinator.ledger.path.parent.glob("withdrawn-*.json")
    file.unlink()
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        assert ask(coordinator.site, instruction(coordinator.plan), kind).error.reason == "LedgerError"


def test_images_of_who_withdrew_are_not_opened(tmp_path: Path) -> None:
    opened: list[Absent] = []

    def load(site: SiteConfig, model: object, months: float | None, absent: Absent, unlabelled: bool) -> object:
        opened.append(absent)
        return site_visits(site, MODEL, months, absent, unlabelled)

    coordinator = hospital(tmp_path)
    sites = RunningSites(load)  # type: ignore[arg-type]
    sites.at(coordinator.site).visits(PLAN)
    withdraw(coordinator, "north-3")
    data = sites.at(coordinator.site).visits(PLAN)
    assert opened == [NOBODY_ABSENT, Absent(frozenset({"north-3"}))]
    assert "north-3" not in {visit.subject_id for visit in data.visits}
    assert open_ledger(read_site(coordinator.site)) is not None
