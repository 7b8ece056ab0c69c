"""What a ledger keeps of announced models: a reviewer can recompute the chain and hold it against that of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.audit import AuditError
from permmoe.federated.instructions import Instruction
from permmoe.federated.model_chain import Announcement, Link, head_of, parting, sign_head
from permmoe.federated.replies import EvaluationReply
from permmoe_client.release.ledger import Ledger, LedgerError
from permmoe_client.release.outbox import send_evaluation
from permmoe_client.site import ReleasePolicy
from permmoe_server.provisioning.authority import issue_server, new_authority
from tests.client.release.test_ledger import AUTHORITY, NOW, SERVER, ledger_of
from tests.permmoe.federated.test_model_chain import model, rounds, signed_by
from tests.support.tiny_federation import tiny_plan

PLAN = tiny_plan()
STUDY = PLAN.digest()


def enter(ledger: Ledger, links: Sequence[Link], *, signer: Any = SERVER) -> None:
    """Let an evaluation leave whose instruction came with these links."""
    seen = ledger.newest_head(STUDY)
    signed = sign_head(head_of(STUDY, links), signer.key, signer.certificate, signer.certificate_pem.decode())
    announced = Announcement(tuple(links), signed, known=seen.length if seen else 0)
    instruction = Instruction(PLAN, 7, "d" * 64, announcement=announced)
    reply = EvaluationReply("north", 7, "d" * 64, {"clinical": ErrorSums(11, 7.5, 5.25, -3.0, 13.0)})
    send_evaluation(reply, instruction, ReleasePolicy(), ledger)


def test_a_ledger_has_each_link_once_and_the_whole_chain(tmp_path: Path) -> None:
    ledger, links = ledger_of(tmp_path), rounds(3)
    for length in (1, 2, 5, 5, 7):
        enter(ledger, links[:length])
    found = ledger.verify(AUTHORITY.certificate)
    assert found.chains[STUDY].links == tuple(links) and found.chains[STUDY].signed.head == head_of(STUDY, links)
    sizes = [len(bytes.fromhex(entry.facts["announced"]["links"])) // 37 for entry in found.entries]
    assert sizes == [1, 1, 3, 0, 2]
    assert ledger.newest_head(STUDY) == head_of(STUDY, links)


def test_a_ledger_knows_no_head_of_another_study_and_none_before_the_first(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    assert ledger.newest_head(STUDY) is None
    enter(ledger, rounds(1))
    assert ledger.newest_head(tiny_plan(rounds=8).digest()) is None
    assert ledger.verify(None).chains.keys() == {STUDY}


def test_a_head_that_no_server_of_this_federation_signed_is_found_where_the_authority_is_known(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path)
    enter(ledger, rounds(3)[:1])
    enter(ledger, rounds(3)[:2], signer=issue_server(new_authority("Tiny", NOW), "127.0.0.1", NOW, days=90))
    assert len(ledger.verify(None).entries) == 2
    with pytest.raises(AuditError, match="entry 2: the head of the chain of models is damaged, or not of this"):
        ledger.verify(AUTHORITY.certificate)


LIES: dict[str, tuple[Mapping[str, Any], str]] = {
    "links left out": ({"links": ""}, "is not the one that was signed"),
    "a gap": ({"after": 5}, "has a gap"),
    "no links": ({"links": None}, "is damaged"),
    "no head": ({"head": "none"}, "is damaged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_entry_whose_head_does_not_follow_from_its_links_is_named(lie: str, tmp_path: Path) -> None:
    """The hospital's own key signed it: a program that was tampered with could write such an entry."""
    ledger, (change, why) = ledger_of(tmp_path), LIES[lie]
    enter(ledger, rounds(1))
    [entry] = ledger.entries()
    signed = signed_by(SERVER, head_of(STUDY, rounds(2)))
    facts = {"head": signed.values(), "after": 3, "links": "00" * 37}
    ledger.append("evaluation", {**entry.facts, "announced": {**facts, **change}})
    with pytest.raises(AuditError, match=f"entry 2: .*{why}"):
        ledger.verify(AUTHORITY.certificate)
    if lie == "no head":
        with pytest.raises(LedgerError, match="permmoe-client ledger verify"):
            ledger.newest_head(STUDY)


def test_two_hospitals_ledgers_show_two_stories(tmp_path: Path) -> None:
    """Neither hospital can see it alone; side by side both chains carry the coordinator's signature."""
    honest = rounds(3)
    crafted = [*honest[:3], replace(honest[3], model=model(99))]
    north, south = (ledger_of(tmp_path / name) for name in ("north", "south"))
    enter(north, honest)
    enter(south, honest[:3])
    one, other = (ledger.verify(AUTHORITY.certificate).chains[STUDY].links for ledger in (north, south))
    assert parting(one, other) is None
    enter(south, crafted)
    other = south.verify(AUTHORITY.certificate).chains[STUDY].links
    assert parting(one, other) == 3
