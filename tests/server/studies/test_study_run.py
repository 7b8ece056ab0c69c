"""What a study keeps about its sites and its models, over kills, lost folders and ledgers put back from a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.federated.audit import LedgerHead, parse_receipt
from permmoe.federated.model_chain import Link
from permmoe.federated.plan import RoundPlan
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import load_certificate, open_ledger
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import read_site
from permmoe_server.protocol.readiness import NoQuorum
from permmoe_server.studies import study_run
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west")
KINDS = pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])


def plan_of(*, secure: bool, rounds: int = 2) -> RoundPlan:
    return tiny_plan(secure=secure, rounds=rounds, min_sites=3, max_failed_rounds=1)


def ledger_of(federation: SecureFederation, site: str) -> Ledger:
    ledger = open_ledger(read_site(federation.deployment.sites[site]))
    assert ledger
    return ledger


def folder_of(federation: SecureFederation, site: str) -> Path:
    return ledger_of(federation, site).path.parent


def announced(federation: SecureFederation) -> list[Link]:
    return [Link(**json.loads(line)) for line in (federation.out / "models.jsonl").read_text().splitlines()]


def chain_of(federation: SecureFederation, site: str) -> list[Link]:
    """The models that a site's ledger knows of, once all of it is verified."""
    authority = load_certificate(federation.deployment.folder.authority)
    return list(ledger_of(federation, site).verify(authority).chains[federation.plan.digest()].links)


def receipts(federation: SecureFederation) -> dict[str, LedgerHead]:
    lines = (federation.out / "receipts.jsonl").read_bytes().splitlines()
    return {receipt.head.site: receipt.head for receipt in map(parse_receipt, lines)}


def before_round(number: int, work: Callable[[], None]) -> ClientApp:
    """The sites' app, before whose first training of a round something happens."""
    app, done = ClientApp(), list[int]()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.metadata.group_id == str(number) and not done:
            done.append(number)
            work()
        return client_app(message, context)

    app.evaluate()(client_app)
    for stage in ("share", "mask", "count", "open"):
        app.query(f"secure_{stage}")(client_app)
    return app


@KINDS
def test_every_model_that_sites_were_sent_is_announced_once_and_is_in_every_ledger(
    secure: bool, tmp_path: Path
) -> None:
    federation = found(tmp_path, plan_of(secure=secure), NAMES)
    federation.run()
    links = announced(federation)
    work = [(1, "training"), (1, "validation"), (2, "training"), (2, "validation"), (2, "test")]
    assert [(link.round, link.purpose) for link in links] == work
    assert links[1].model == links[2].model != links[3].model == links[4].model
    assert all(chain_of(federation, name) == links for name in NAMES)


@KINDS
def test_an_evaluation_is_countersigned_as_a_training_is(secure: bool, tmp_path: Path) -> None:
    federation = found(tmp_path, plan_of(secure=secure, rounds=1), NAMES)
    federation.run()
    for name, head in receipts(federation).items():
        *_, last = ledger_of(federation, name).entries()
        assert last.facts["purpose"] == "test" and (head.sequence, head.digest) == (last.sequence, last.digest())
    assert set(receipts(federation)) == set(NAMES)


class KilledError(Exception):
    """The coordinator's process is gone."""


def killed_before_saving(federation: SecureFederation, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the study until the checkpoint of a round is about to be written."""
    save = study_run.save_state

    def dying(out: Path, plan: RoundPlan, layout: object, state: object) -> None:
        if state.round == number:  # type: ignore[attr-defined]
            raise KilledError
        save(out, plan, layout, state)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(study_run, "save_state", dying)
        federation.run()


def test_a_coordinator_killed_between_evaluation_and_saving_goes_on_and_sites_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(tmp_path, plan_of(secure=False, rounds=3), NAMES)
    killed_before_saving(federation, 2, monkeypatch)
    before = announced(federation)
    records = federation.run()
    assert [record["round"] for record in records if record["is_aggregated"]] == [1, 2, 3]
    links = announced(federation)
    assert links[:4] == before and len(links) == 7, "round 2 was run again with the same models"
    assert all(chain_of(federation, name) == links for name in NAMES)


def test_a_secure_round_that_a_kill_took_after_its_evaluation_is_lost_and_the_next_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(secure=True, rounds=3)
    plan = plan.model_copy(update={"federation": plan.federation.model_copy(update={"max_failed_rounds": 2})})
    federation = found(tmp_path, plan, NAMES)
    killed_before_saving(federation, 2, monkeypatch)
    records = federation.run()
    assert [(r["round"], r["is_aggregated"]) for r in records] == [(1, True), (2, False), (3, True)]
    assert all(chain_of(federation, name) == announced(federation) for name in NAMES)


@KINDS
def test_attack_a_coordinator_that_lost_its_record_cannot_tell_another_story(
    secure: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found(tmp_path, plan_of(secure=secure, rounds=1), NAMES)
    federation.run()
    shutil.rmtree(federation.out)
    with pytest.raises(NoQuorum):
        federation.run()
    assert "ModelNotAnnounced" in caplog.text and "this ledger has seen 3" in caplog.text


@KINDS
def test_attack_a_ledger_put_back_from_a_copy_between_two_rounds_is_found_and_nothing_is_sent(
    secure: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found(tmp_path, plan_of(secure=secure, rounds=3), NAMES)
    there, copy = folder_of(federation, "west"), tmp_path / "copy"

    def put_back() -> None:
        lines = (there / "ledger.jsonl").read_bytes().splitlines(keepends=True)
        shutil.rmtree(there)
        there.mkdir()
        (there / "ledger.jsonl").write_bytes(b"".join(lines[:1]))
        shutil.copytree(there, copy)

    with pytest.raises(NoQuorum):
        federation.run(before_round(2, put_back))
    assert "the ledger ends at entry 1, but the coordinator has a receipt for entry" in caplog.text
    assert (there / "ledger.jsonl").read_bytes() == (copy / "ledger.jsonl").read_bytes()


@KINDS
def test_attack_a_ledger_deleted_while_the_coordinator_was_down_is_found_after_its_restart(
    secure: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found(tmp_path, plan_of(secure=secure), NAMES)

    def die() -> None:
        raise KilledError

    # The site's app turns an error into a reply, so the round fails, and the run ends.
    with pytest.raises(NoQuorum):
        federation.run(before_round(2, die))
    SITES.forget()
    there = folder_of(federation, "west")
    whole, newest = (there / "ledger.jsonl").read_bytes(), receipts(federation)["west"].sequence
    shutil.rmtree(there)
    with pytest.raises(NoQuorum):
        federation.run()
    assert f"the ledger ends at entry 0, but the coordinator has a receipt for entry {newest}" in caplog.text
    # The newest is found again: with it the site goes on.
    (there / "ledger.jsonl").write_bytes(whole)
    assert federation.run()[-1]["is_aggregated"]


def test_a_ledger_that_is_ahead_of_its_receipt_is_usual(tmp_path: Path) -> None:
    """The reply to an instruction may be lost, after its entry was written."""
    federation = found(tmp_path, plan_of(secure=False), NAMES)
    ledger = ledger_of(federation, "west")
    records = federation.run(before_round(2, lambda: ledger.append("evaluation", {"bytes": 1}) and None))
    assert [record["is_aggregated"] for record in records] == [True, True]


def test_a_receipt_for_an_older_entry_does_not_replace_the_newest(tmp_path: Path) -> None:
    federation = found(tmp_path, plan_of(secure=False, rounds=1), NAMES)
    app = ClientApp()
    app.train()(client_app)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        reply.content["reply"]["ledger"] = "1 " + "0" * 64
        return reply

    federation.run(app)
    for name, head in receipts(federation).items():
        first, *_ = ledger_of(federation, name).entries()
        assert (head.sequence, head.digest) == (1, first.digest())
