"""The size of a message's content is that of what it carries."""

from __future__ import annotations

from flwr.app import ConfigRecord, RecordDict

from permmoe.federated.module_records import write_modules
from permmoe.federated.records import content_bytes, contents_bytes
from tests.support.records import LAYOUT, PACKED_MODEL


def test_bytes_count_the_array() -> None:
    size = sum(4 * LAYOUT.size(name) for name in LAYOUT.modules)
    assert size < content_bytes(RecordDict({"model": write_modules(PACKED_MODEL.modules)})) < size + 300


def test_contents_that_share_records_are_counted_as_each_would_be_by_itself() -> None:
    shared = ConfigRecord({"key": b"12345", "names": ["a", "bc"]})
    contents = [RecordDict({"shared": shared, "own": ConfigRecord({"n": bytes(n)})}) for n in range(3)]
    contents += [contents[0], RecordDict(), RecordDict({"other": shared})]
    assert contents_bytes(contents) == [content_bytes(content) for content in contents]
    assert len(set(contents_bytes(contents))) == 5
