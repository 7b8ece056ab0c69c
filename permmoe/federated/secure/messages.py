"""The secure sum's messages as Flower records. What is read came from another machine: nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from jaxtyping import UInt32

from permmoe.federated.audit import LedgerHead
from permmoe.federated.module_records import PACKED
from permmoe.federated.records import MalformedRecord, read_array, record_of, typed
from permmoe.federated.replies import read_head
from permmoe.federated.secure.choices import Choices
from permmoe.federated.secure.count_shares import SEALED_KEY_BYTES
from permmoe.federated.secure.exchanged import (
    SEALED_SHARES_BYTES,
    CountShares,
    Evidence,
    MaskedBits,
    MaskedInput,
    Unmasking,
)
from permmoe.federated.secure.masks import KEY_BYTES
from permmoe.federated.secure.session import Advertisement, Participants, Session

MAX_BYTES = 4096
"""No key, share of one site's secrets, bits or signature is longer."""
MAX_SEALED_BYTES = 1 << 16
"""A site's sealed shares of the seeds of 4,000 sites are no longer."""


@dataclass(frozen=True)
class SessionStart:
    """What begins a session at a site, beside the instruction."""

    nonce: str
    roster: bytes
    """The newest, signed by the coordinator's authority."""


def write_session_start(start: SessionStart) -> ConfigRecord:
    """The record `secure` of an instruction."""
    return ConfigRecord({"nonce": start.nonce, "roster": start.roster})


def read_session_start(content: RecordDict) -> SessionStart:
    """Raises MalformedRecord."""
    record = record_of(content, "secure", ConfigRecord)
    return SessionStart(typed(record, "nonce", str), typed(record, "roster", bytes))


def write_stage(session: Session, **records: ConfigRecord) -> RecordDict:
    """A message of a later stage: the session that it belongs to, and what the stage needs."""
    return RecordDict({"session": ConfigRecord({"digest": session.digest().hex()}), **records})


def read_session_digest(content: RecordDict) -> str:
    """Which session a message belongs to. Raises MalformedRecord."""
    return typed(record_of(content, "session", ConfigRecord), "digest", str)


def write_advertisement(advertisement: Advertisement) -> RecordDict:
    """A site's reply to the start."""
    return RecordDict({"advertisement": ConfigRecord({advertisement.site: _pack(advertisement)})})


def read_advertisement(content: RecordDict) -> Advertisement:
    """Raises MalformedRecord."""
    found = read_cohort(content, "advertisement")
    if len(found) != 1:
        raise MalformedRecord("advertisement")
    return found[0]


def write_cohort(sites: Iterable[Advertisement]) -> Mapping[str, ConfigRecord]:
    """Stage 2's question."""
    return {"cohort": ConfigRecord({site.site: _pack(site) for site in sites})}


def read_cohort(content: RecordDict, name: str = "cohort") -> list[Advertisement]:
    """Raises MalformedRecord."""
    return [_unpack(site, packed) for site, packed in read_bytes(content, name).items()]


def write_bytes(values: Mapping[str, bytes]) -> ConfigRecord:
    """Short byte strings by name."""
    return ConfigRecord(dict(values))


def read_bytes(content: RecordDict, name: str, most: int = MAX_BYTES) -> dict[str, bytes]:
    """Byte strings by name, of `most` bytes each. Raises MalformedRecord."""
    found: dict[str, bytes] = {}
    for key, value in record_of(content, name, ConfigRecord).items():
        if not isinstance(value, bytes) or len(value) > most:
            raise MalformedRecord(name)
        found[key] = value
    return found


def write_names(names: Iterable[str]) -> ConfigRecord:
    """A set of names."""
    return ConfigRecord(dict.fromkeys(sorted(names), True))


def read_names(content: RecordDict, name: str) -> tuple[str, ...]:
    """A set of names. Raises MalformedRecord."""
    return tuple(record_of(content, name, ConfigRecord))


def write_sealed(sealed: Mapping[str, bytes], participants: Sequence[str]) -> ConfigRecord:
    """Stage 2's reply: which participants are keepers, a bit each, and the shares that are sealed for them."""
    chosen = np.packbits([name in sealed for name in participants]).tobytes()
    return ConfigRecord({"keepers": chosen, "shares": _joined(sealed)})


def read_sealed(content: RecordDict, participants: Sequence[str]) -> dict[str, bytes]:
    """The shares by keeper. Raises MalformedRecord."""
    record, n = record_of(content, "sealed", ConfigRecord), len(participants)
    chosen = typed(record, "keepers", bytes)
    if len(chosen) != -(-n // 8):
        raise MalformedRecord("sealed")
    keepers = np.flatnonzero(np.unpackbits(np.frombuffer(chosen, np.uint8), count=n)).tolist()
    return _cut(typed(record, "shares", bytes), [participants[i] for i in keepers], SEALED_SHARES_BYTES, "sealed")


def write_shares(sealed: Mapping[str, bytes]) -> ConfigRecord:
    """Stage 3's question to one site: the shares that other sites sealed for it."""
    return ConfigRecord({"shares": _joined(sealed)})


def read_shares(content: RecordDict, senders: Collection[str]) -> dict[str, bytes]:
    """The shares by sender. Raises MalformedRecord."""
    packed = typed(record_of(content, "sealed", ConfigRecord), "shares", bytes)
    return _cut(packed, senders, SEALED_SHARES_BYTES, "sealed")


def write_masked(masked: MaskedInput, head: LedgerHead | None) -> RecordDict:
    """Stage 3's reply; `head` of the ledger whose newest entry it is."""
    reply = ConfigRecord({"site": masked.site, "bits": masked.bits.tobytes(), "signature": masked.signature})
    if head:
        reply["ledger"] = f"{head.sequence} {head.digest}"
    return RecordDict({"reply": reply, "numbers": ArrayRecord({PACKED: Array(masked.numbers)})})


def read_masked(content: RecordDict, size: int, n_blocks: int) -> tuple[MaskedInput, LedgerHead | None]:
    """`size`: how many numbers there have to be. Raises MalformedRecord."""
    reply = record_of(content, "reply", ConfigRecord)
    site = typed(reply, "site", str)
    record = record_of(content, "numbers", ArrayRecord)
    if set(record) != {PACKED}:
        raise MalformedRecord("encoding")
    numbers = read_array(record[PACKED], size, "<u8")
    bits = _bits(typed(reply, "bits", bytes), n_blocks)
    return MaskedInput(site, bits, numbers, typed(reply, "signature", bytes)), read_head(content, site)


def write_choices(choices: Choices) -> ConfigRecord:
    """Who chose whom: the same in stage 3's question to every site."""
    return write_bytes(choices.pack())


def read_choices(content: RecordDict, participants: Participants) -> Choices:
    """Raises MalformedRecord, and SecureSumRefused for choices that no site may make."""
    return Choices.unpack(participants, read_bytes(content, "choices"))


def write_count_shares(shares: CountShares) -> RecordDict:
    """Stage 4's reply."""
    sealed = ConfigRecord({**write_keys(_joined(shares.keys)), "seeds": shares.seeds})
    return RecordDict({"count-shares": sealed, "mask-keys": write_bytes(shares.mask_keys)})


def read_count_shares(content: RecordDict, others: Collection[str]) -> CountShares:
    """`others`: the other sites whose input came. Raises MalformedRecord."""
    seeds = typed(record_of(content, "count-shares", ConfigRecord), "seeds", bytes)
    return CountShares(read_keys(content, others), seeds, read_bytes(content, "mask-keys"))


def write_keys(packed: bytes) -> ConfigRecord:
    """Sealed keys, all of one length, one after another in the order of the sites' names."""
    return ConfigRecord({"keys": packed})


def read_keys(content: RecordDict, names: Collection[str]) -> dict[str, bytes]:
    """The sealed keys of these sites. Raises MalformedRecord."""
    packed = typed(record_of(content, "count-shares", ConfigRecord), "keys", bytes)
    return _cut(packed, names, SEALED_KEY_BYTES, "keys")


def write_evidence(evidence: Evidence) -> Mapping[str, ConfigRecord]:
    """What stage 5's first question holds for every site alike."""
    return {
        "bits": write_bytes({name: masked.bits.tobytes() for name, masked in evidence.bits.items()}),
        "signatures": write_bytes({name: masked.signature for name, masked in evidence.bits.items()}),
        "seeds": write_bytes(evidence.seeds),
        "mask-keys": write_bytes(evidence.mask_keys),
    }


def read_evidence(content: RecordDict, n_blocks: int) -> Evidence | None:
    """The evidence; None where a question has none, since its site has it already. Raises MalformedRecord."""
    if "bits" not in content:
        return None
    bits, signatures = read_bytes(content, "bits"), read_bytes(content, "signatures")
    if bits.keys() != signatures.keys():
        raise MalformedRecord("signatures")
    return Evidence(
        {name: MaskedBits(_bits(packed, n_blocks), signatures[name]) for name, packed in bits.items()},
        read_bytes(content, "seeds", MAX_SEALED_BYTES),
        read_bytes(content, "mask-keys"),
    )


def write_masks(unmasking: Unmasking, head: LedgerHead | None) -> RecordDict:
    """Stage 5's reply; `head` of the ledger whose newest entry says who is in the sum."""
    return RecordDict(
        {
            "reply": ConfigRecord({"ledger": f"{head.sequence} {head.digest}"} if head else {}),
            "block-keys": write_bytes(unmasking.block_keys),
            "input-seeds": write_bytes(unmasking.input_seeds),
        }
    )


def read_masks(content: RecordDict, site: str) -> tuple[Unmasking, LedgerHead | None]:
    """Raises MalformedRecord."""
    unmasking = Unmasking(read_bytes(content, "block-keys"), read_bytes(content, "input-seeds"))
    return unmasking, read_head(content, site)


def _joined(values: Mapping[str, bytes]) -> bytes:
    """Byte strings of one length in the order of their names: many entries of a record would each be checked, counted
    and written by themselves."""
    return b"".join(values[name] for name in sorted(values))


def _cut(packed: bytes, names: Collection[str], size: int, rule: str) -> dict[str, bytes]:
    if len(packed) != size * len(names):
        raise MalformedRecord(rule)
    return {name: packed[i * size : (i + 1) * size] for i, name in enumerate(sorted(names))}


def _pack(advertisement: Advertisement) -> bytes:
    keys = (advertisement.channel_key, advertisement.mask_key)
    return b"".join((*keys, advertisement.count_commitment, advertisement.input_commitment, advertisement.signature))


def _unpack(site: str, packed: bytes) -> Advertisement:
    if len(packed) <= 4 * KEY_BYTES:
        raise MalformedRecord("advertisement")
    parts = [packed[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(4)]
    return Advertisement(site, parts[0], parts[1], parts[2], parts[3], packed[4 * KEY_BYTES :])


def _bits(packed: bytes, n_blocks: int) -> UInt32[np.ndarray, " block"]:
    if len(packed) != 4 * n_blocks:
        raise MalformedRecord("bits")
    return np.frombuffer(packed, "<u4").astype(np.uint32)
