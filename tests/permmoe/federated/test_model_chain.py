"""The chain of announced models: what a change, another study or another signer does to it, and how large it gets."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from permmoe.federated.audit import AuditError, LedgerHead, countersign
from permmoe.federated.instructions import Instruction, read_instruction, write_instruction
from permmoe.federated.model_chain import (
    Announcement,
    ChainHead,
    Link,
    Purpose,
    SignedHead,
    check_evaluated,
    check_head,
    check_tested,
    head_of,
    pack_links,
    parse_head,
    parting,
    rounds_with_two_models,
    sign_head,
    unpack_links,
)
from permmoe.federated.records import MalformedRecord, content_bytes
from permmoe_server.provisioning.authority import REGION_NAME, Identity, issue_server, issue_site, new_authority
from tests.support.records import PACKED_MODEL, on_the_wire
from tests.support.tiny_federation import tiny_plan

NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)
AUTHORITY = new_authority("Tiny", NOW)
SERVER = issue_server(AUTHORITY, "127.0.0.1", NOW, days=90)
STUDY = "5" * 64


def model(number: int) -> str:
    return f"{number:064x}"


def rounds(count: int) -> list[Link]:
    """The links of an honest study that evaluates after every round."""
    links = []
    for number in range(1, count + 1):
        links += [Link(number, "training", model(number - 1)), Link(number, "validation", model(number))]
    return [*links, Link(count, "test", model(count))]


def signed_by(identity: Identity, head: ChainHead) -> SignedHead:
    return sign_head(head, identity.key, identity.certificate, identity.certificate_pem.decode())


def test_links_and_a_signed_head_come_back_as_they_were_sent() -> None:
    links = rounds(3)
    signed = signed_by(SERVER, head_of(STUDY, links))
    assert unpack_links(pack_links(links)) == tuple(links) and signed.head.length == 7
    assert parse_head(signed.line()) == signed
    check_head(signed, AUTHORITY.certificate)
    announced = Instruction(tiny_plan(), 7, PACKED_MODEL.digest(), "test", Announcement(tuple(links), signed))
    assert read_instruction(on_the_wire(write_instruction(announced, PACKED_MODEL))) == announced


@pytest.mark.parametrize("place", range(7))
def test_a_link_that_is_changed_moved_or_left_out_changes_the_head(place: int) -> None:
    links = rounds(3)
    whole = head_of(STUDY, links)
    changed = [
        [*links[:place], replace(links[place], model=model(99)), *links[place + 1 :]],
        [*links[:place], replace(links[place], round=99), *links[place + 1 :]],
        [*links[:place], *links[place + 1 :]],
        [*links[place:], *links[:place]] if place else links[::-1],
        [*links[: place + 1], links[place], *links[place + 1 :]],
    ]
    assert all(head_of(STUDY, other).digest != whole.digest for other in changed)
    assert head_of(STUDY, links[:place]) == head_of(STUDY, rounds(3)[:place])


def test_a_head_counts_only_as_signed_by_a_server_of_this_federation_for_this_text() -> None:
    head = head_of(STUDY, rounds(3))
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    site = Identity(key, x509.load_pem_x509_certificate(issue_site(AUTHORITY, "south", public, NOW)))
    region = issue_server(AUTHORITY, "127.0.0.1", NOW, days=90, name=REGION_NAME)
    stranger = issue_server(new_authority("Tiny", NOW), "127.0.0.1", NOW, days=90)
    good = signed_by(SERVER, head)
    bad = [
        (signed_by(site, head), "was not signed by the coordinator's server"),
        (signed_by(region, head), "was not signed by the coordinator's server"),
        (signed_by(stranger, head), "not of this federation's server"),
        (replace(good, head=replace(head, study="6" * 64)), "is not the server's"),
        (replace(good, head=replace(head, length=6)), "is not the server's"),
        (replace(good, head=replace(head, digest=model(1))), "is not the server's"),
        (replace(good, certificate="none"), "damaged"),
    ]
    for forged, why in bad:
        with pytest.raises(AuditError, match=why):
            check_head(forged, AUTHORITY.certificate)


def test_a_receipt_is_no_head_and_a_head_is_no_receipt() -> None:
    """The text of one could be made to read like the other's; what is signed begins with its purpose."""
    head = ChainHead("north", 3, model(7))
    receipt = countersign(
        LedgerHead("north", 3, model(7)), SERVER.key, SERVER.certificate, SERVER.certificate_pem.decode()
    )
    with pytest.raises(AuditError, match="is not the server's"):
        check_head(SignedHead(head, receipt.signature, receipt.certificate), AUTHORITY.certificate)


@pytest.mark.parametrize("packed", [b"1", pack_links(rounds(1))[:-1], b"\0\0\0\1\7" + bytes(32)])
def test_damaged_links_are_refused(packed: bytes) -> None:
    with pytest.raises(AuditError, match="damaged"):
        unpack_links(packed)
    announced = Announcement(tuple(rounds(1)), signed_by(SERVER, head_of(STUDY, rounds(1))))
    content = write_instruction(Instruction(tiny_plan(), 1, PACKED_MODEL.digest(), "test", announced), PACKED_MODEL)
    content["announced"]["links"] = packed
    with pytest.raises(MalformedRecord, match="announced"):
        read_instruction(content)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"study":1,"length":"x"}', b'{"study":1,"length":Infinity}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_head_is_refused(line: bytes) -> None:
    with pytest.raises(AuditError, match="damaged"):
        parse_head(line)


def test_an_honest_study_trains_from_what_it_evaluated() -> None:
    check_evaluated(rounds(24))
    check_tested(rounds(24))
    assert rounds_with_two_models(rounds(24)) == 0


def changed(number: int, purpose: Purpose, to: str) -> list[Link]:
    """An honest study's links, one of them with another model."""
    return [replace(link, model=to) if (link.round, link.purpose) == (number, purpose) else link for link in rounds(3)]


def test_attack_a_model_crafted_for_an_evaluation_is_not_the_one_that_is_trained_from() -> None:
    with pytest.raises(AuditError, match="round 3 trains from a model that was not evaluated after round 2"):
        check_evaluated(changed(2, "validation", model(99)))


def test_attack_a_model_crafted_for_a_training_is_not_the_one_that_was_evaluated() -> None:
    with pytest.raises(AuditError, match="round 2 trains from a model that was not evaluated after round 1"):
        check_evaluated(changed(2, "training", model(99)))


def test_attack_a_model_crafted_for_the_test_is_not_the_one_that_was_evaluated() -> None:
    with pytest.raises(AuditError, match="round 3 tests a model that was not evaluated in it"):
        check_tested(changed(3, "test", model(99)))


def test_rounds_that_were_not_evaluated_or_were_lost_may_follow_one_another() -> None:
    seldom = [link for link in rounds(9) if link.purpose != "validation" or link.round % 3 == 0]
    check_evaluated(seldom)
    # Round 2 was evaluated, then its coordinator was killed, and run again it was lost: round 3 starts where 2 did.
    check_evaluated([*rounds(2)[:4], Link(3, "training", model(1))])
    check_evaluated([*rounds(1)[:2], Link(2, "training", model(1)), Link(3, "training", model(1))])


def test_a_second_model_for_the_same_work_is_counted() -> None:
    again = [*rounds(2)[:4], Link(2, "validation", model(77)), Link(3, "training", model(77))]
    check_evaluated(again)
    assert rounds_with_two_models(again) == 1


def test_two_chains_part_where_they_first_differ_and_not_while_one_is_the_beginning_of_the_other() -> None:
    links = rounds(3)
    assert parting(links, links[:4]) is None and parting([], links) is None
    assert parting(links, changed(2, "validation", model(99))[:4]) == 3


def test_the_chain_of_a_thousand_rounds_takes_less_than_100_kilobytes_of_an_instruction() -> None:
    def size(count: int) -> int:
        links = tuple(rounds(count))
        announced = Announcement(links, signed_by(SERVER, head_of(STUDY, links)))
        instruction = Instruction(tiny_plan(), count, PACKED_MODEL.digest(), "test", announced)
        return content_bytes(write_instruction(instruction, PACKED_MODEL))

    without = content_bytes(write_instruction(Instruction(tiny_plan(), 1, PACKED_MODEL.digest()), PACKED_MODEL))
    assert 70_000 < size(1000) - without < 100_000 and size(24) - without < 4_000


def test_without_a_key_an_instruction_has_not_a_byte_more() -> None:
    content = write_instruction(Instruction(tiny_plan(), 1, PACKED_MODEL.digest()), PACKED_MODEL)
    assert set(content) == {"model", "digests", "instruction", "receipts"}
    assert read_instruction(content).announcement is None
