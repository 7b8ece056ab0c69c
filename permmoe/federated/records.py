"""What every message of the protocol is made of: Flower records, read without trust.

Inside permmoe only this module, `module_records`, `instructions` and `replies` beside it, and
permmoe.federated.secure.messages import Flower. Whatever is read comes from another machine, so that every reader
raises MalformedRecord where the content breaks the protocol.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

Value = TypeVar("Value")


class MalformedRecord(Exception):
    """A record breaks the protocol. `rule` names the broken rule and repeats nothing that was received."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def content_bytes(content: RecordDict) -> int:
    """Return the size of a message's content in bytes, without Flower's framing."""
    return sum(_bytes_of(record) for record in content.values())


def contents_bytes(contents: Collection[RecordDict]) -> list[int]:
    """Return the size of each content, as `content_bytes` does; a record that many contents share is counted once."""
    records = {id(record): record for content in contents for record in content.values()}
    sizes = {name: _bytes_of(record) for name, record in records.items()}
    return [sum(sizes[id(record)] for record in content.values()) for content in contents]


def _bytes_of(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    # Flower 1.42's own count raises for an empty text or list, which any sender may include.
    if isinstance(record, ArrayRecord):
        return record.count_bytes()
    return sum(len(name) + _value_bytes(value) for name, value in record.items())


def _value_bytes(value: object) -> int:
    match value:
        case str() | bytes():
            return len(value)
        case list():
            return sum(map(_value_bytes, value))
        case _:
            return 8


def record_of(content: RecordDict, name: str, kind: type[Value]) -> Value:
    """Return a record of a message, which must be of this kind. Raises MalformedRecord."""
    record = content.get(name)
    if not isinstance(record, kind):
        raise MalformedRecord(f"missing_{name}")
    return record


def typed(record: ConfigRecord, name: str, kind: type[Value]) -> Value:
    """Return a value of a record, which must be of this kind. Raises MalformedRecord."""
    value = record.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedRecord(f"missing_{name.replace('-', '_')}")
    return value


def number(record: MetricRecord, name: str, rule: str) -> float:
    """Return a number of a record. Raises MalformedRecord, with this rule, where it is none."""
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MalformedRecord(rule)
    return float(value)


def byte_array(pieces: Sequence[np.ndarray]) -> Array:
    """Return the bytes of all pieces, arrays of uint8 of any lengths, one after another as one flat array."""
    size = sum(map(len, pieces))
    # As NumPy would write their concatenation, without making it first.
    data = b"".join([_numpy_header(size, "|u1"), *(piece.data for piece in pieces)])
    return Array("uint8", (size,), "numpy.ndarray", data)


def read_array(array: Array, size: int, kind: Literal["|u1", "<u8"]) -> np.ndarray:
    """Return a read-only flat array of `size` bytes or uint64 numbers. Raises MalformedRecord."""
    if array.dtype != np.dtype(kind).name:
        raise MalformedRecord("dtype")
    if tuple(array.shape) != (size,):
        raise MalformedRecord("shape")
    # A parser of NumPy's format would believe the header's shape; the only header it may have is known beforehand.
    header = _numpy_header(size, kind)
    if (
        array.stype != "numpy.ndarray"
        or len(array.data) != len(header) + np.dtype(kind).itemsize * size
        or array.data[: len(header)] != header
    ):
        raise MalformedRecord("encoding")
    return np.frombuffer(array.data, kind, offset=len(header))


def _numpy_header(size: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": (size,)})
    return buffer.getvalue()
