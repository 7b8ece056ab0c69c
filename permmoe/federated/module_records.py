"""Packed modules and their digests as Flower records.

Flower sends, signs and stores every array by itself, at some 10 ms each: a model of 50 modules travels several times
faster in one array.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord

from permmoe.federated.records import MalformedRecord, byte_array, read_array, typed
from permmoe.federated.wire import Bytes

PACKED = "modules"
"""The name of the one array in a record of modules."""
SHA256_BYTES = 32


def write_modules(modules: Mapping[str, Bytes]) -> ArrayRecord:
    """Write packed modules one after another, in the order of their names."""
    return ArrayRecord({PACKED: byte_array([modules[name] for name in sorted(modules)])})


def read_modules(record: ArrayRecord, sizes: Mapping[str, int]) -> dict[str, Bytes]:
    """Return packed modules, read-only, by the sizes in bytes that are expected of them. Raises MalformedRecord."""
    if set(record) != {PACKED}:
        raise MalformedRecord("encoding")
    names = sorted(sizes)
    ends = np.cumsum([sizes[name] for name in names])
    flat = read_array(record[PACKED], int(ends[-1]) if names else 0, "|u1")
    return dict(zip(names, np.split(flat, ends[:-1]), strict=True)) if names else {}


def write_digests(digests: Mapping[str, bytes]) -> ConfigRecord:
    """Write SHA-256 digests of modules, joined: one value each would take longer to carry than the model's bytes."""
    names = sorted(digests)
    return ConfigRecord({"modules": " ".join(names), "sha256": b"".join(digests[name] for name in names)})


def read_digests(record: ConfigRecord) -> dict[str, bytes]:
    """Return digests by module; the names of the modules are not checked. Raises MalformedRecord."""
    names, joined = typed(record, "modules", str).split(), typed(record, "sha256", bytes)
    if len(set(names)) < len(names) or len(joined) != SHA256_BYTES * len(names):
        raise MalformedRecord("digests")
    return {name: joined[SHA256_BYTES * i :][:SHA256_BYTES] for i, name in enumerate(names)}
