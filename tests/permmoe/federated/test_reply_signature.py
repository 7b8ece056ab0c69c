"""A reply's signature is of one reply, by one hospital, and passes for nothing else that the hospital signs."""

from __future__ import annotations

from itertools import permutations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Error, Metadata, RecordDict
from flwr.app.message import make_message

from permmoe.federated.audit import ENTRY_PURPOSE
from permmoe.federated.reply_signature import PURPOSE, SIGNATURE_BYTES, is_signature, is_signed, sign_reply
from permmoe.federated.secure.signatures import ADVERTISED, MASKED

KEY, OTHER = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
NAMED = {
    "run_id": 77, "message_id": "", "src_node_id": 11, "dst_node_id": 1, "reply_to_message_id": "a" * 64,
    "group_id": "3", "created_at": 1.8e9, "ttl": 60.0, "message_type": "train",
}  # fmt: skip


def named(content: RecordDict | Error | None = None, **said: object) -> str:
    """The name of a reply that says this of itself."""
    metadata = Metadata(**{**NAMED, **said})
    if isinstance(content, Error):
        return make_message(metadata, error=content).object_id
    words = RecordDict({"reply": ConfigRecord({"site": "north"})})
    return make_message(metadata, content=words if content is None else content).object_id


def test_a_signature_is_of_the_reply_of_this_name_and_of_the_site_with_this_key() -> None:
    signature = sign_reply(named(), KEY)
    assert is_signature(signature) and len(signature) <= SIGNATURE_BYTES
    assert is_signed(named(), signature, KEY.public_key())
    assert not is_signed(named(), signature, OTHER.public_key())
    for broken in (PURPOSE, signature[:-1], signature + b"\0", signature.removeprefix(PURPOSE)[::-1], b""):
        assert not is_signed(named(), broken, KEY.public_key())


@pytest.mark.parametrize(
    "other",
    [
        {"reply_to_message_id": "b" * 64}, {"run_id": 78}, {"src_node_id": 12}, {"group_id": "4"},
        {"message_type": "evaluate"}, {"content": RecordDict({"reply": ConfigRecord({"site": "south"})})},
        {"content": RecordDict()}, {"content": Error(3, "BudgetSpent")},
    ],
    ids=["message", "study", "node", "round", "kind", "word", "nothing", "refusal"],
)  # fmt: skip
def test_attack_a_signature_moved_to_another_reply_is_none(other: dict[str, object]) -> None:
    assert not is_signed(named(**other), sign_reply(named(), KEY), KEY.public_key())


def test_an_error_is_signed_with_the_reason_that_it_has() -> None:
    signature = sign_reply(named(Error(3, "BudgetSpent")), KEY)
    assert is_signed(named(Error(3, "BudgetSpent")), signature, KEY.public_key())
    assert not is_signed(named(Error(3, "StudyNotApproved")), signature, KEY.public_key())
    assert not is_signed(named(Error(4, "BudgetSpent")), signature, KEY.public_key())


def test_nothing_that_a_hospital_signs_begins_as_something_else_does() -> None:
    for one, other in permutations((PURPOSE, ENTRY_PURPOSE, ADVERTISED, MASKED), 2):
        assert not one.startswith(other)
    # Flower has each request signed by a time, in ASCII, which begins with a year.
    assert not any(purpose[:1].isdigit() for purpose in (PURPOSE, ENTRY_PURPOSE, ADVERTISED, MASKED))
