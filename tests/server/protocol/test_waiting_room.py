"""A study waits for its sites and their approvals, and waiting costs nothing that is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from permmoe.federated.approval_question import APPROVAL_QUERY
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.training.seeds import make_model
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.release.approval import pending_studies
from permmoe_server.protocol.federation import Clock, Federation
from permmoe_server.protocol.readiness import Readiness
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_server.protocol.rules import UNPROVEN_RULES
from permmoe_server.status.waiting import waiting_sentence
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.tiny_federation import SITES as NAMES
from tests.support.tiny_federation import approve, tiny_plan, write_site

DIRECTORY = dict(zip(range(FIRST_NODE, FIRST_NODE + 3), NAMES, strict=True))


class Weeks:
    """Time that passes while the protocol pauses; at a given moment something happens."""

    def __init__(self, at_seconds: float, happens: Callable[[], object]) -> None:
        self.seconds, self._at, self._happens = 0.0, at_seconds, happens

    def pause(self, seconds: float) -> None:
        before, self.seconds = self.seconds, self.seconds + seconds
        if before < self._at <= self.seconds:
            self._happens()

    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self.pause)


def rounds(
    folder: Path, plan: RoundPlan, time: Weeks, told: list[Readiness], app: ClientApp = client_app, **changes: object
) -> list[RoundRecord]:
    SITES.forget()
    grid = InProcessGrid(app, [{"site-config": str(folder / f"{name}.yaml")} for name in NAMES])
    settings = {"directory": lambda: DIRECTORY, "on_readiness": told.append, **changes}
    federation = Federation(grid, time.clock(), **settings)
    model = make_model(plan.model, plan.train.seed)
    layout = ModuleLayout.of(model)
    start = FederationState(0, layout.flatten_all(model.state_dict()))
    return [record for _, record in run_rounds(federation, plan, layout, start)]


def test_an_approval_that_comes_weeks_later_starts_the_study_and_no_try_was_spent(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2, min_sites=3, max_failed_rounds=1)
    files = {name: write_site(tmp_path, name) for name in NAMES}
    approve(files["north"], plan)
    approve(files["west"], plan)
    told: list[Readiness] = []
    weeks = Weeks(300, lambda: approve(files["south"], plan))
    records = rounds(tmp_path, plan, weeks, told)
    assert (told[0].ready, told[0].unapproved) == (("north", "west"), ("south",)) and told[0].is_waiting
    assert [(r.round, r.is_aggregated) for r in records] == [(1, True), (2, True)]
    assert all(site.rejected is None for record in records for site in record.sites)
    assert weeks.seconds < 400 and not told[-1].is_waiting


def test_a_hospital_can_see_and_approve_a_study_that_it_was_only_asked_about(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, min_sites=3)
    for name in NAMES:
        write_site(tmp_path, name, ledger=str(tmp_path / f"ledger-{name}"))
    stopping = iter([False, False, True, True])
    records = rounds(tmp_path, plan, Weeks(1e9, list), [], is_to_stop=lambda: next(stopping))
    assert not records
    assert [study.digest() for study in pending_studies(tmp_path / "ledger-north")] == [plan.digest()]


def test_an_approval_that_is_taken_back_is_waited_for_again(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2, min_sites=3, max_failed_rounds=2)
    files = {name: approve(write_site(tmp_path, name), plan) for name in NAMES}
    told: list[Readiness] = []
    asked: list[str] = []

    def watched(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if kind == "train":
            asked.append(message.metadata.group_id)
            if asked.count("2") == 1:
                files["south"].write_text(files["south"].read_text().replace(plan.digest(), "f" * 64))
        return client_app(message, context)

    app = ClientApp()
    app.train()(watched)
    app.evaluate()(watched)
    app.query(APPROVAL_QUERY)(watched)
    weeks = Weeks(300, lambda: approve(files["south"], plan))
    records = rounds(tmp_path, plan, weeks, told, app)
    assert [(r.round, r.is_aggregated) for r in records] == [(1, True), (2, False), (2, True)]
    assert any(r.is_waiting and r.unapproved == ("south",) for r in told)


def test_a_site_that_answers_the_question_with_another_trouble_is_asked_in_the_round(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, min_sites=3)
    for name in NAMES:
        approve(write_site(tmp_path, name), plan)
    app = ClientApp()
    app.train()(client_app)
    app.evaluate()(client_app)

    @app.query(APPROVAL_QUERY)
    def older_version(message: Message, context: Context) -> Message:
        return Message(Error(3, "ValueError"), reply_to=message)

    [record] = rounds(tmp_path, plan, Weeks(1e9, list), [], app)
    assert record.is_aggregated


@pytest.mark.parametrize("rule", sorted(UNPROVEN_RULES))
def test_attack_an_approval_that_is_not_proven_to_be_its_hospitals_starts_no_study_and_is_asked_for_again(
    rule: str, tmp_path: Path
) -> None:
    plan = tiny_plan(rounds=1, min_sites=3, max_failed_rounds=1)
    for name in NAMES:
        approve(write_site(tmp_path, name), plan)
    app, lies, asked = ClientApp(), [True], list[int]()
    app.train()(client_app)
    app.evaluate()(client_app)

    @app.query(APPROVAL_QUERY)
    def answered_by_another(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        if lies[0] and context.node_id == FIRST_NODE + 1:
            return Message(Error(3, rule), reply_to=message)
        return client_app(message, context)

    told: list[Readiness] = []
    weeks = Weeks(300, lambda: lies.__setitem__(0, False))
    [record] = rounds(tmp_path, plan, weeks, told, app)
    assert record.is_aggregated and 300 <= weeks.seconds < 400
    assert told[0].unproven == {"south": rule} and told[0].ready == ("north", "west") and told[0].is_waiting
    assert told[0].silent == told[0].unapproved == told[0].quarantined == () and not told[-1].unproven
    # Not at every look at who is connected, and for as long as it takes.
    assert 10 <= asked.count(FIRST_NODE + 1) <= 12 and asked.count(FIRST_NODE) == 1


def test_a_site_for_which_others_answer_in_a_round_is_not_ready_any_more_and_no_try_is_lost(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2, min_sites=3, max_failed_rounds=2)
    for name in NAMES:
        approve(write_site(tmp_path, name), plan)
    app, lies = ClientApp(), [True]
    app.evaluate()(client_app)

    def answer(message: Message, context: Context) -> Message:
        if lies[0] and context.node_id == FIRST_NODE + 1 and message.metadata.group_id == "2":
            return Message(Error(3, "unsigned"), reply_to=message)
        return client_app(message, context)

    app.train()(answer)
    app.query(APPROVAL_QUERY)(answer)
    told: list[Readiness] = []
    weeks = Weeks(300, lambda: lies.__setitem__(0, False))
    records = rounds(tmp_path, plan, weeks, told, app)
    assert [(r.round, r.is_aggregated) for r in records] == [(1, True), (2, False), (2, True)]
    assert any(r.is_waiting and r.unproven == {"south": "unsigned"} for r in told)
    assert "The answer of south: It is not signed" in waiting_sentence(told[-2], ())


@pytest.mark.parametrize("absent", [0, 2])
def test_a_site_that_is_away_is_waited_for_without_a_try(absent: int, tmp_path: Path) -> None:
    plan = tiny_plan(rounds=1, min_sites=3, max_failed_rounds=1)
    for name in NAMES:
        approve(write_site(tmp_path, name), plan)
    directory = {node: name for i, (node, name) in enumerate(DIRECTORY.items()) if i != absent}
    told: list[Readiness] = []
    weeks = Weeks(300, lambda: directory.update(DIRECTORY))
    [record] = rounds(tmp_path, plan, weeks, told, directory=lambda: directory)
    assert record.is_aggregated and len(told[0].ready) == 2 and weeks.seconds < 400
