"""A survey through the apps of server and sites, plain and by secure sum."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.federated.plan import RoundPlan
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import SURVEY_MESSAGE, answers
from permmoe_client.app import app as client_app
from permmoe_client.participation.survey import count_patients
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from permmoe_server.studies.survey_file import SurveyNumbers, read_survey_file
from permmoe_simulation.engines.grid import run_in_process
from tests.support.secure_federation import SecureFederation, found
from tests.support.survey_files import tiny_survey
from tests.support.tiny_federation import SITES, approve, write_site

NAMES = ("north", "south", "west", "east", "mid")


def sites_of(folder: Path, plan: RoundPlan, *, unapproved: tuple[str, ...] = ()) -> list[Path]:
    paths = {name: write_site(folder, name, visits=40) for name in SITES}
    return [path if name in unapproved else approve(path, plan) for name, path in paths.items()]


def survey(folder: Path, plan: RoundPlan, sites: list[Path], app: ClientApp = client_app) -> SurveyNumbers:
    (folder / "plan.json").write_text(plan.canonical_json())
    run = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, app, [{"site-config": str(path)} for path in sites], run)
    return read_survey_file(folder / "out")


def own_answers(path: Path, plan: RoundPlan) -> dict[str, int]:
    return answers(Facts.of(plan), count_patients(plan, read_site(path), None).counts)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]


def test_a_survey_adds_up_what_hospitals_tell(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=3)
    sites = sites_of(tmp_path, plan)
    numbers = survey(tmp_path, plan, sites)
    total: Counter[str] = Counter()
    for path in sites:
        total.update(own_answers(path, plan))
    assert numbers.answers == dict(total) and numbers.answers["any/any/any"] == 120
    assert numbers.sites == tuple(sorted(SITES)) and numbers.hospitals["any/any/any"] == 3
    # One of the three has fluid data.
    assert numbers.hospitals["clinical+fluid/any/any"] == 1
    [record] = records(tmp_path)
    assert record["is_aggregated"] and {site["rejected"] for site in record["sites"]} == {None}


def test_a_hospital_that_did_not_approve_is_not_counted_and_the_others_are(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=2)
    numbers = survey(tmp_path, plan, sites_of(tmp_path, plan, unapproved=("south",)))
    assert numbers.sites == ("north", "west")
    assert [site["rejected"] for site in records(tmp_path)[0]["sites"]].count("StudyNotApproved") == 1


def test_no_hospital_approved_is_said_in_a_sentence_and_nothing_is_lost(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=2, max_failed_rounds=1)
    sites = sites_of(tmp_path, plan, unapproved=tuple(SITES))
    with pytest.raises(NoQuorum, match="usable replies of fewer than 2 hospitals"):
        survey(tmp_path, plan, sites)
    for path in sites:
        approve(path, plan)
    assert survey(tmp_path, plan, sites).answers["any/any/any"] == 120
    assert [record["is_aggregated"] for record in records(tmp_path)] == [False, True]


def test_a_finished_survey_asks_nobody_again(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=3)
    sites, asked = sites_of(tmp_path, plan), Counter[str]()
    app = ClientApp()

    @app.query(SURVEY_MESSAGE.removeprefix("query."))
    def counted(message: Message, context: Context) -> Message:
        asked["survey"] += 1
        return client_app(message, context)

    first = survey(tmp_path, plan, sites, app)
    assert survey(tmp_path, plan, sites, app) == first and asked["survey"] == 3


def replying(change: Any) -> ClientApp:
    """The sites' app, of which every reply to a survey is changed."""
    app = ClientApp()

    @app.query("survey")
    def changed(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        change(reply.content)
        return reply

    return app


@pytest.mark.parametrize(
    ("name", "number", "rule"),
    [
        ("clinical/0/any", 4, "survey_counts"),
        ("clinical/7/any", 40, "survey_counts"),
        ("clinical/0/any", 10**9, "survey_counts"),
        ("clinical/0/any", 7.5, "counts"),
    ],
)
def test_a_number_that_no_honest_site_tells_is_left_out(name: str, number: float, rule: str, tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=1, max_failed_rounds=1)
    sites = sites_of(tmp_path, plan)[:1]
    with pytest.raises(NoQuorum):
        survey(tmp_path, plan, sites, replying(lambda content: content["counts"].update({name: number})))
    assert records(tmp_path)[0]["sites"][0]["rejected"] == rule


def test_a_reply_to_another_survey_is_left_out(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=1, max_failed_rounds=1)
    sites = sites_of(tmp_path, plan)[:1]
    with pytest.raises(NoQuorum):
        survey(tmp_path, plan, sites, replying(lambda content: content["reply"].update({"study": "0" * 64})))
    assert records(tmp_path)[0]["sites"][0]["rejected"] == "wrong_survey"


def secure(folder: Path, **settings: Any) -> SecureFederation:
    plan = tiny_survey(secure=True, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **settings)
    return found(folder, plan, NAMES, release={"min_cell_count": 3})


def test_a_secure_survey_tells_sums_over_hospitals_and_nothing_that_fewer_than_three_have(tmp_path: Path) -> None:
    federation = secure(tmp_path)
    seen: list[bool] = []
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        seen.append(message.metadata.message_type == SURVEY_MESSAGE and "counts" in reply.content)
        return reply

    for stage in ("survey", "secure_share", "secure_mask", "secure_count", "secure_open"):
        app.query(stage)(answer)
    [record] = federation.run(app)
    assert record["is_secure"] and record["is_aggregated"] and not any(seen)
    plan, total, holders = federation.plan, Counter[str](), Counter[str]()
    for path in federation.deployment.sites.values():
        own = own_answers(path, plan)
        total.update(own)
        holders.update(own.keys())
    numbers = read_survey_file(federation.out)
    assert numbers.answers == {name: n for name, n in total.items() if holders[name] >= 3}
    assert 0 < len(numbers.answers) < len(total) and not numbers.hospitals and numbers.sites == tuple(sorted(NAMES))


def test_attack_a_secure_survey_asked_again_with_and_without_a_hospital(tmp_path: Path) -> None:
    federation = secure(tmp_path)
    federation.run()
    (federation.out / "survey.json").unlink()
    for path in federation.out.glob("*.jsonl"):
        path.unlink()
    with pytest.raises(StudyLost, match="they give it once"):
        federation.run()
    rejected = {site["rejected"] for site in json.loads((federation.out / "rounds.jsonl").read_text())["sites"]}
    assert rejected == {"AlreadyAnswered"}


def test_a_site_of_a_plain_survey_that_wants_the_secure_sum_refuses(tmp_path: Path) -> None:
    plan = tiny_survey(min_sites=2)
    sites = sites_of(tmp_path, plan)
    own = yaml.safe_load(sites[0].read_text())
    sites[0].write_text(yaml.safe_dump(own | {"release": {"require_secure": True}}))
    assert len(survey(tmp_path, plan, sites).sites) == 2
    assert "NotReleased" in {site["rejected"] for site in records(tmp_path)[0]["sites"]}


def test_answers_are_what_is_told_of_disjoint_patients(tmp_path: Path) -> None:
    plan = tiny_survey()
    told = {"clinical/0/known": 7, "clinical+gene/any/known": 5, "any/any/any": 6}
    found_answers = answers(Facts.of(plan), told)
    assert found_answers["any/any/any"] == 18 and found_answers["clinical/any/known"] == 12
    assert found_answers["clinical+gene/any/any"] == 5 and "gene/0/any" not in found_answers
