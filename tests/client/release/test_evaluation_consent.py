"""What a hospital reads before its visits judge a model, and what it answers to anything else."""

from __future__ import annotations

import json
from pathlib import Path

from flwr.app import Message, MessageType
from typer.testing import CliRunner

from permmoe.federated.instructions import Instruction, write_instruction
from permmoe.federated.member_modules import of_member, own_name
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import read_evaluation_reply
from permmoe_client.cli import app
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.release.consent import study_in_words
from permmoe_client.site import read_site
from tests.support.announcing_coordinator import AnnouncingCoordinator
from tests.support.judged_models import evaluation_of, judged_ensemble, judged_model, packed, tiny_evaluation
from tests.support.site_messages import ask, instruction
from tests.support.tiny_federation import write_site

PLAN = tiny_evaluation(min_cell_count=7)


def judging(path: Path, plan: RoundPlan, seed: int = 5, number: int = 1, kind: str = MessageType.EVALUATE) -> Message:
    model = packed(judged_model(seed))
    return ask(path, write_instruction(Instruction(plan, number, model.digest(), "test"), model), kind)


def test_an_approved_evaluation_is_answered_over_groups_of_the_least_size(tmp_path: Path) -> None:
    reply = judging(write_site(tmp_path, "north"), PLAN)
    assert reply.has_content(), reply.error
    found = read_evaluation_reply(reply.content)
    assert found.further.keys() == found.sums.keys() and min(sums.n for sums in found.sums.values()) >= 7


def test_attack_an_approved_evaluation_trains_validates_and_repeats_nothing(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    assert judging(path, PLAN, kind=MessageType.TRAIN).error.reason == "QueryRefused"
    assert ask(path, instruction(PLAN), MessageType.EVALUATE).error.reason == "QueryRefused"
    assert judging(path, PLAN, number=2).error.reason == "QueryRefused"


def test_attack_another_model_than_the_approved_one_is_not_judged(tmp_path: Path) -> None:
    assert judging(write_site(tmp_path, "north"), PLAN, seed=6).error.reason == "QueryRefused"


def ensemble_judged(path: Path, plan: RoundPlan, model: PackedModel, digest: str | None = None) -> Message:
    asked = Instruction(plan, 1, digest or model.digest(), "test")
    return ask(path, write_instruction(asked, model), MessageType.EVALUATE)


def test_attack_an_ensemble_of_other_members_than_the_approved_ones_is_not_judged(tmp_path: Path) -> None:
    path, approved = write_site(tmp_path, "north"), packed(judged_ensemble((5, 6, 7)))
    plan = evaluation_of(judged_ensemble((5, 6, 7)), min_cell_count=7)
    assert ensemble_judged(path, plan, approved).has_content()
    for seeds in ((5, 6, 8), (5, 7, 6)):
        other = packed(judged_ensemble(seeds))
        assert ensemble_judged(path, plan, other).error.reason == "QueryRefused"
        # Under the approved name.
        assert ensemble_judged(path, plan, other, approved.digest()).error.reason == "MalformedRecord"
    # The approved digests, and another member's bytes in the second one's place.
    swapped = {name: approved.modules[of_member(3, own_name(name)) if name.startswith(of_member(2, "")) else name]
               for name in approved.modules}  # fmt: skip
    lying = PackedModel(swapped, approved.digests)
    assert ensemble_judged(path, plan, lying).error.reason == "MalformedRecord"


def test_attack_an_ensemble_of_another_number_of_members_than_the_plan_says_is_not_judged(tmp_path: Path) -> None:
    path, three = write_site(tmp_path, "north"), judged_ensemble((5, 6, 7))
    plan = evaluation_of(three)
    for members in (1, 2, 4):
        assert plan.evaluation
        tampered = plan.model_copy(update={"evaluation": plan.evaluation.model_copy(update={"members": members})})
        # Even where the hospital approved that.
        assert ensemble_judged(path, tampered, packed(three)).error.reason == "MalformedRecord"
        asked = write_instruction(Instruction(tampered, 1, packed(three).digest(), "test"), packed(three))
        unseen = write_site(tmp_path, "west")
        assert ask(unseen, asked, MessageType.EVALUATE, is_approved=False).error.reason == "StudyNotApproved"
    assert ensemble_judged(path, tampered, packed(judged_model())).error.reason == "QueryRefused"


def test_a_hospital_reads_of_how_many_models_the_mean_is_judged(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))

    def text(plan: RoundPlan) -> str:
        return " ".join(s for section in study_in_words(plan, site) for s in section.sentences)

    shown = text(evaluation_of(judged_ensemble()))
    assert "It is an ensemble of 3 models: what is judged is the mean of their predictions" in shown
    assert "members: 3" in shown and "ensemble" not in text(PLAN) and "members" not in text(PLAN)


def test_an_ensembles_rehearsal_has_as_many_numbers_as_a_single_models(tmp_path: Path) -> None:
    site, sums = read_site(write_site(tmp_path, "north")), {}
    for plan in (PLAN, evaluation_of(judged_ensemble(), min_cell_count=7)):
        dry_run(site, plan, tmp_path / plan.digest())
        sums[plan.members] = json.loads((tmp_path / plan.digest() / "evaluation.json").read_text())["sums"]
    assert {name: one["n"] for name, one in sums[1].items()} == {name: one["n"] for name, one in sums[3].items()}
    assert sums[1] != sums[3]


def test_a_hospital_reads_that_nothing_is_trained_which_model_it_is_and_what_leaves(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))
    text = " ".join(s for section in study_in_words(PLAN, site) for s in section.sentences)
    assert "This study evaluates a finished model on all your visits; it trains nothing." in text
    assert "The model: v0001 of study T" in text and packed(judged_model()).digest() in text
    assert "over groups of 7 subjects or more" in text and "NO secure sum" in text
    assert "local_epochs" not in text and "batch_size" not in text
    test = " ".join(s for part in study_in_words(tiny_evaluation(visits="test"), site) for s in part.sentences)
    assert "on your test visits; it trains nothing" in test and "which no study trains on" in test


def test_a_hospital_reads_whether_sizes_of_errors_leave_too(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))

    def text(plan: RoundPlan) -> str:
        return " ".join(s for section in study_in_words(plan, site) for s in section.sentences)

    assert "how many of these visits have an error of which size" not in text(PLAN)
    plain, secure = tiny_evaluation(calibrate=True, min_cell_count=7), tiny_evaluation(calibrate=True, secure=True)
    assert "an error of which size, for each combination (no size with fewer than 7 of them" in text(plain)
    assert "(exactly, under the mask)" in text(secure) and "calibrate: true" in text(plain)


def test_a_rehearsal_judges_an_untrained_model_and_says_so(tmp_path: Path) -> None:
    said = dry_run(read_site(write_site(tmp_path, "north")), PLAN, tmp_path / "rehearsal")
    assert "evaluated here; nothing was sent" in said and "sums of" in said
    assert {file.name for file in (tmp_path / "rehearsal").iterdir()} == {
        "evaluation.bin", "evaluation.json", "README.txt",
    }  # fmt: skip
    shown = json.loads((tmp_path / "rehearsal" / "evaluation.json").read_text())
    assert shown["further"].keys() == shown["sums"].keys()
    assert "an untrained one stands in" in (tmp_path / "rehearsal" / "README.txt").read_text()


def test_approve_asks_whether_the_model_may_be_judged(tmp_path: Path) -> None:
    site, study = AnnouncingCoordinator.of(tmp_path).site, tmp_path / "plan.json"
    study.write_text(PLAN.canonical_json())
    arguments = ["approve", "--site", str(site), "--study", str(study)]
    no = CliRunner().invoke(app, arguments, input="n\n")
    assert f"May the evaluation {PLAN.digest()[:16]}… judge its model at site" in no.output and no.exit_code == 1
    yes = CliRunner().invoke(app, [*arguments, "--yes"])
    assert "The model is judged when it is asked for next." in yes.output
