"""A site in a survey: what it counts, what it refuses, and what it remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, MessageType

from permmoe.errors import DataError
from permmoe.federated.plan import RoundPlan
from permmoe.federated.survey_messages import SURVEY_MESSAGE, SurveyReply, read_survey_reply, write_survey
from permmoe_client.app import app
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.participation.survey import count_patients
from permmoe_client.release.consent import study_in_words
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import NotReleased
from permmoe_client.release.patient_account import PatientAccount
from permmoe_client.release.survey_outbox import send_survey
from permmoe_client.site import SiteConfig, read_site
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.site_messages import ask, instruction
from tests.support.survey_files import tiny_survey
from tests.support.tiny_federation import approve, tiny_plan, write_site

KEY = ec.generate_private_key(ec.SECP384R1())
PLAN = tiny_survey()


def site_with(folder: Path, **columns: str) -> SiteConfig:
    """The site north, of whose manifest some columns have another name."""
    site = read_site(write_site(folder, "north", visits=40))
    assert site.manifest
    text = site.manifest.read_text()
    for name, other in columns.items():
        text = text.replace(name, other)
    site.manifest.write_text(text)
    return site


def asked(path: Path, plan: RoundPlan = PLAN) -> Message:
    grid = InProcessGrid(app, [{"site-config": str(path)}], is_serialised=True)
    [reply] = grid.send_and_receive([Message(write_survey(plan), FIRST_NODE, SURVEY_MESSAGE, group_id="1")])
    return reply


def counts(path: Path, plan: RoundPlan = PLAN) -> SurveyReply:
    reply = asked(approve(path, plan), plan)
    assert reply.has_content(), reply.error
    return read_survey_reply(reply.content)


def test_an_approved_survey_is_answered_with_numbers_of_five_or_more(tmp_path: Path) -> None:
    reply = counts(write_site(tmp_path, "north", visits=40))
    assert (reply.site, reply.study) == ("north", PLAN.digest())
    assert sum(reply.counts.values()) == 40 and min(reply.counts.values()) >= 5
    # Every third patient has clinical data alone.
    assert all(name.startswith("clinical") for name in reply.counts)
    assert sum(n for name, n in reply.counts.items() if name.startswith("clinical+fluid+gene/")) > 15


def test_a_hospital_that_approved_a_training_refuses_a_survey(tmp_path: Path) -> None:
    path = approve(write_site(tmp_path, "north"), tiny_plan())
    assert asked(path).error.reason == "StudyNotApproved"


def test_a_site_with_a_privacy_budget_answers_no_survey(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its numbers have no noise, so nothing bounds what they cost."""
    budget = {"epsilon": 8.0, "delta": 1e-5}
    path = approve(write_site(tmp_path, "north", visits=40, privacy_budget=budget), PLAN)
    assert asked(path).error.reason == "BudgetSpent" and "surveys have none" in caplog.text


def test_a_hospital_that_approved_a_survey_trains_and_evaluates_nothing_for_it(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        assert ask(path, instruction(PLAN), kind).error.reason == "QueryRefused"


def test_a_plan_without_a_survey_is_no_question(tmp_path: Path) -> None:
    assert asked(approve(write_site(tmp_path, "north"), tiny_plan()), tiny_plan()).error.reason == "MalformedRecord"


def test_a_column_that_the_manifest_lacks_counts_nobody_and_loses_nothing(tmp_path: Path) -> None:
    counted = count_patients(PLAN, site_with(tmp_path, fluid_0="other_0"), None)
    assert sum(counted.counts.values()) == counted.patients == 40
    assert not any("fluid" in name for name in counted.counts)
    assert counted.notes == ("the manifest has no column of fluid: the survey counts nobody with it",)


def test_without_an_outcome_column_every_outcome_is_not_known(tmp_path: Path) -> None:
    counted = count_patients(PLAN, site_with(tmp_path, delta_cdrsb="change"), None)
    assert {name.split("/")[2] for name in counted.counts} <= {"unknown", "any"}
    assert sum(counted.counts.values()) == 40 and "no column delta_cdrsb" in counted.notes[0]


def test_outcomes_of_another_horizon_are_not_known(tmp_path: Path) -> None:
    counted = count_patients(PLAN.model_copy(update={"horizon_months": 12.0}), site_with(tmp_path), None)
    assert {name.split("/")[2] for name in counted.counts} <= {"unknown", "any"}
    assert "24 months after the visit and the survey asks for 12" in counted.notes[0]


def test_a_hospital_with_no_modality_of_the_survey_says_so(tmp_path: Path) -> None:
    site = site_with(tmp_path, clinical_0="a", fluid_0="b", gene_0="c")
    with pytest.raises(DataError, match="no column of any modality of the survey"):
        count_patients(PLAN, site, None)


def test_modalities_that_the_site_keeps_to_itself_are_not_counted(tmp_path: Path) -> None:
    site = site_with(tmp_path).model_copy(update={"modalities": ("clinical",)})
    assert {name.split("/")[0] for name in count_patients(PLAN, site, None).counts} == {"clinical"}


def test_attack_a_patient_withdrawn_between_two_surveys_takes_others_along(tmp_path: Path) -> None:
    site, ledger = site_with(tmp_path), Ledger(tmp_path / "ledger", "north", KEY)
    assert site.manifest
    first = count_patients(PLAN, site, ledger)
    again = count_patients(PLAN, site, ledger)
    assert first == again
    site.manifest.write_text("".join(line for line in site.manifest.open() if not line.startswith("north-3,")))
    later = count_patients(PLAN.model_copy(update={"name": "a year later"}), site, ledger)
    lost = sum(first.counts.values()) - sum(later.counts.values())
    assert lost >= 5 and min(later.counts.values()) >= 5


def test_the_ledger_says_that_a_survey_left_and_no_number_of_it(tmp_path: Path) -> None:
    site, ledger = site_with(tmp_path), Ledger(tmp_path / "ledger", "north", KEY)
    counted = count_patients(PLAN, site, ledger)
    content = send_survey(counted.counts, PLAN, site, ledger)
    account, entry = ledger.entries()
    assert (account.kind, entry.kind) == ("account", "survey")
    assert entry.facts["counts"].keys() == counted.counts.keys()
    assert set(entry.facts["counts"].values()) <= {"5-9", "10-19", "20-49"}
    head = read_survey_reply(content).head
    assert head and head.sequence == entry.sequence


def test_a_site_that_wants_the_secure_sum_sends_no_plain_numbers(tmp_path: Path) -> None:
    site = site_with(tmp_path)
    site = site.model_copy(update={"release": site.release.model_copy(update={"require_secure": True})})
    with pytest.raises(NotReleased, match="this survey has no secure sum"):
        send_survey({"any/any/any": 40}, PLAN, site, None)


def test_a_rehearsal_shows_the_very_numbers_and_enters_nothing(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", visits=43)
    said = dry_run(read_site(path), PLAN, tmp_path / "rehearsal")
    shown = json.loads((tmp_path / "rehearsal" / "survey.json").read_text())
    assert shown["told"] == counts(path).counts
    assert shown["patients here"] == 43 and "counted 43 of 43 patients" in said and "nothing was sent" in said
    assert {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "rehearsal").iterdir()} == dict.fromkeys(
        ("survey.bin", "survey.json", "README.txt"), 0o600
    )
    assert "would NOT have left" in (tmp_path / "rehearsal" / "README.txt").read_text()


def test_a_preview_of_the_account_is_what_then_happens_and_enters_nothing(tmp_path: Path) -> None:
    site, ledger = site_with(tmp_path), Ledger(tmp_path / "ledger", "north", KEY)
    before = count_patients(PLAN, site, ledger, is_rehearsal=True)
    assert not list(ledger.entries()) and PatientAccount(ledger).read().account.groups == {}
    assert count_patients(PLAN, site, ledger) == before


def test_a_masked_rehearsal_hides_the_numbers(tmp_path: Path) -> None:
    plan = tiny_survey(secure=True, min_sites=3)
    said = dry_run(read_site(write_site(tmp_path, "north", visits=43)), plan, tmp_path / "rehearsal")
    assert "masked" in said
    assert "under the mask" in (tmp_path / "rehearsal" / "README.txt").read_text()
    assert (tmp_path / "rehearsal" / "survey.bin").stat().st_size > 8 * 2**3 * 3 * 3


def test_a_hospital_reads_in_plain_words_what_would_leave(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    settings = yaml.safe_load(path.read_text()) | {"release": {"min_cell_count": 7}}
    path.write_text(yaml.safe_dump(settings))
    text = " ".join(s for section in study_in_words(PLAN, read_site(path)) for s in section.sentences)
    assert "Numbers of patients by combination of modalities, severity and whether the outcome is known, once." in text
    assert "Numbers under 7 are withheld here, before anything leaves" in text
    assert "CDR-SB below 2, CDR-SB 2 or more" in text and "How a patient changed is not told." in text
    assert "NO secure sum" in text and "epochs" not in text and "learning_rate" not in text
