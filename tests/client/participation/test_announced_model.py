"""A site works with announced models only: attacks by a coordinator, and what an honest one may do after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from flwr.app import Message

from permmoe.data.dataset import VisitData
from permmoe.federated.model_chain import Announcement, Link, Purpose
from permmoe_client.connection.identity import load_key
from permmoe_client.participation.running_site import RunningSites
from permmoe_client.site import read_site
from permmoe_server.provisioning.authority import Identity, issue_server, new_authority
from tests.permmoe.federated.test_model_chain import NOW
from tests.support.announcing_coordinator import CRAFTED, NEWER, AnnouncingCoordinator, kind_of
from tests.support.site_messages import WEIGHTS, ask, instruction
from tests.support.tiny_federation import tiny_plan, write_site


@pytest.fixture
def coordinator(tmp_path: Path) -> AnnouncingCoordinator:
    return AnnouncingCoordinator.of(tmp_path)


def refused(reply: Message) -> bool:
    return reply.has_error() and reply.error.reason == "ModelNotAnnounced"


def answered(reply: Message) -> bool:
    return reply.has_content()


def test_a_site_answers_an_honest_coordinator_and_its_ledger_has_the_chain(coordinator: AnnouncingCoordinator) -> None:
    assert answered(coordinator.send(1, "training"))
    assert answered(coordinator.send(1, "validation", NEWER))
    assert answered(coordinator.send(2, "training", NEWER))
    authority = read_site(coordinator.site).coordinator.authority  # type: ignore[union-attr]
    found = coordinator.ledger.verify(x509.load_pem_x509_certificate(authority.read_bytes()))
    assert found.chains[coordinator.plan.digest()].links == tuple(coordinator.links)
    told = [entry.facts["announced"] for entry in found.entries if entry.kind in ("training", "evaluation")]
    lengths = [announced["head"]["length"] for announced in told]
    assert lengths == [1, 2, 3]


@pytest.mark.parametrize("purpose", ["training", "validation", "test"])
def test_attack_a_crafted_model_that_was_never_announced_is_refused_before_any_data_is_read(
    purpose: Purpose, coordinator: AnnouncingCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> VisitData:
        pytest.fail("the data was read")

    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(read))
    coordinator.announce(1, purpose)
    reply = coordinator.send(1, purpose, CRAFTED, announcement=coordinator.announcement())
    assert refused(reply) and not coordinator.entries()


@pytest.mark.parametrize("purpose", ["training", "validation"])
def test_attack_a_site_with_a_coordinator_refuses_an_instruction_without_a_chain(
    purpose: Purpose, coordinator: AnnouncingCoordinator
) -> None:
    reply = ask(coordinator.site, coordinator.message(1, purpose), kind_of(purpose))
    assert refused(reply) and not coordinator.entries()


def test_a_site_without_a_coordinator_needs_no_chain(tmp_path: Path) -> None:
    assert answered(ask(write_site(tmp_path, "north"), instruction()))


def of_another_study(coordinator: AnnouncingCoordinator) -> Announcement:
    return coordinator.announcement(study=tiny_plan(rounds=8).digest())


def by_a_site(coordinator: AnnouncingCoordinator) -> Announcement:
    """Signed with the key and the certificate of the hospital's own kit."""
    kit = read_site(coordinator.site).coordinator
    assert kit
    own = Identity(load_key(kit.key), x509.load_pem_x509_certificate(kit.certificate.read_bytes()))
    return coordinator.announcement(signer=own)


def by_a_stranger(coordinator: AnnouncingCoordinator) -> Announcement:
    return coordinator.announcement(signer=issue_server(new_authority("Tiny", NOW), "127.0.0.1", NOW, days=90))


def with_a_link_changed(coordinator: AnnouncingCoordinator) -> Announcement:
    honest = coordinator.announcement()
    return replace(honest, links=(replace(honest.links[0], model="9" * 64), *honest.links[1:]))


def with_a_link_added(coordinator: AnnouncingCoordinator) -> Announcement:
    honest = coordinator.announcement()
    return replace(honest, links=(*honest.links, Link(2, "validation", "9" * 64)))


def with_a_head_of_its_own_making(coordinator: AnnouncingCoordinator) -> Announcement:
    """The links of one chain with the signature of another."""
    other = coordinator.announcement(coordinator.links[:1])
    return replace(coordinator.announcement(), signed=other.signed)


LIES: dict[Callable[[AnnouncingCoordinator], Announcement], str] = {
    of_another_study: "is of another study",
    by_a_site: "was not signed by the coordinator's server",
    by_a_stranger: "not of this federation's server",
    with_a_link_changed: "is not the one that was signed",
    with_a_link_added: "is not the one that was signed",
    with_a_head_of_its_own_making: "is not the one that was signed",
}


@pytest.mark.parametrize("lie", LIES)
def test_attack_a_chain_of_another_study_signer_or_content_is_refused(
    lie: Callable[[AnnouncingCoordinator], Announcement],
    coordinator: AnnouncingCoordinator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    coordinator.announce(1, "training", CRAFTED)
    coordinator.announce(2, "training")
    assert refused(coordinator.send(2, "training", announcement=lie(coordinator)))
    assert LIES[lie] in caplog.text
    assert answered(coordinator.send(2, "training"))


def test_attack_a_model_announced_for_another_round_or_purpose_is_refused(coordinator: AnnouncingCoordinator) -> None:
    coordinator.announce(1, "training")
    chain = coordinator.announcement()
    assert refused(coordinator.send(2, "training", announcement=chain))
    assert refused(coordinator.send(1, "validation", announcement=chain))
    assert answered(coordinator.send(1, "training", announcement=chain))


def test_attack_a_model_crafted_for_an_evaluation_has_to_be_trained_from_too(
    coordinator: AnnouncingCoordinator,
) -> None:
    """The evaluation itself passes: it is announced. The round after it shows what it was."""
    assert answered(coordinator.send(1, "training"))
    assert answered(coordinator.send(1, "validation", CRAFTED))
    assert refused(coordinator.send(2, "training", NEWER))
    coordinator.links.pop()
    assert answered(coordinator.send(2, "training", CRAFTED))


def test_attack_a_model_crafted_for_the_test_is_refused(coordinator: AnnouncingCoordinator) -> None:
    coordinator.announce(9, "validation", NEWER)
    assert refused(coordinator.send(9, "test", CRAFTED))


def test_a_study_with_a_running_mean_evaluates_another_model_than_it_trains_from(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, tiny_plan(rounds=9, averaging_decay=0.5))
    coordinator.announce(1, "validation", NEWER)
    assert answered(coordinator.send(2, "training"))


def test_attack_a_second_story_after_a_restart_is_refused_and_both_are_signed(
    coordinator: AnnouncingCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    assert answered(coordinator.send(1, "training"))
    assert answered(coordinator.send(1, "validation", NEWER))
    coordinator.links = [Link(1, "training", "9" * 64)]
    coordinator.announce(1, "validation", NEWER)
    assert refused(coordinator.send(2, "training", NEWER))
    assert "two stories" in caplog.text


def test_attack_a_chain_shorter_than_one_that_was_seen_is_refused(
    coordinator: AnnouncingCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    assert answered(coordinator.send(1, "training"))
    assert answered(coordinator.send(1, "validation", NEWER))
    coordinator.links = []
    assert refused(coordinator.send(2, "training", NEWER))
    assert "has 1 links, but this ledger has seen 2" in caplog.text


def test_a_coordinator_that_was_killed_may_send_what_it_announced_again(coordinator: AnnouncingCoordinator) -> None:
    assert answered(coordinator.send(1, "training"))
    coordinator.announce(1, "validation", NEWER)
    coordinator.announce(2, "training", NEWER)
    assert answered(coordinator.send(2, "training", NEWER))
    coordinator.announce(2, "validation", WEIGHTS)
    assert answered(coordinator.send(2, "training", NEWER, announcement=coordinator.announcement()))


def test_the_sites_own_log_says_why_without_a_word_about_its_data(
    coordinator: AnnouncingCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.announce(1, "training")
    coordinator.send(1, "training", CRAFTED, announcement=coordinator.announcement())
    assert "ModelNotAnnounced in announced_model.py" in caplog.text
    assert "the model of round 1 for training was never announced" in caplog.text
