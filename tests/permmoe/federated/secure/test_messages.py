"""The secure sum's messages: what is written is read again, and what is malformed is refused."""

from __future__ import annotations

import secrets

import pytest
from flwr.app import ConfigRecord, RecordDict

from permmoe.federated.records import MalformedRecord
from permmoe.federated.secure.exchanged import SEALED_SHARES_BYTES
from permmoe.federated.secure.messages import read_sealed, read_shares, write_sealed, write_shares

PARTICIPANTS = tuple(f"site-{i:02d}" for i in range(11))
SEALED = {name: secrets.token_bytes(SEALED_SHARES_BYTES) for name in PARTICIPANTS[1::3]}


def message(record: ConfigRecord) -> RecordDict:
    return RecordDict({"sealed": record})


def test_shares_for_some_of_the_participants_are_read_as_they_were_written() -> None:
    backwards = dict(reversed(SEALED.items()))
    assert read_sealed(message(write_sealed(backwards, PARTICIPANTS)), PARTICIPANTS) == SEALED
    assert read_shares(message(write_shares(backwards)), tuple(reversed(SEALED))) == SEALED


@pytest.mark.parametrize(
    "changed",
    [
        {"keepers": b"\xff"},
        {"keepers": b"\xff\xff\xff"},
        {"keepers": b"\xff\xe0"},
        {"shares": b""},
        {"shares": bytes(SEALED_SHARES_BYTES * len(SEALED) + 1)},
        {"shares": 3.0},
        {"keepers": "ab"},
    ],
)
def test_shares_that_are_not_one_for_each_named_keeper_are_malformed(changed: dict[str, bytes | str | float]) -> None:
    record = ConfigRecord({**write_sealed(SEALED, PARTICIPANTS), **changed})
    with pytest.raises(MalformedRecord):
        read_sealed(message(record), PARTICIPANTS)


@pytest.mark.parametrize("senders", [PARTICIPANTS, (), tuple(SEALED)[1:]])
def test_shares_of_other_senders_than_are_said_to_have_chosen_a_site_are_malformed(senders: tuple[str, ...]) -> None:
    with pytest.raises(MalformedRecord):
        read_shares(message(write_shares(SEALED)), senders)


def test_participants_beyond_the_last_are_malformed() -> None:
    record = write_sealed(SEALED, PARTICIPANTS)
    longer = ConfigRecord({**record, "keepers": bytes(record["keepers"]) + b"\0"})  # type: ignore[arg-type]
    with pytest.raises(MalformedRecord):
        read_sealed(message(longer), PARTICIPANTS)
