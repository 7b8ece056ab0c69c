"""The size of a message's content is that of what it carries."""

from __future__ import annotations

from flwr.app import RecordDict

from permmoe.federated.module_records import write_modules
from permmoe.federated.records import content_bytes
from tests.support.records import LAYOUT, PACKED_MODEL


def test_bytes_count_the_array() -> None:
    size = sum(4 * LAYOUT.size(name) for name in LAYOUT.modules)
    assert size < content_bytes(RecordDict({"model": write_modules(PACKED_MODEL.modules)})) < size + 300
