"""All modules travel in one array."""

from __future__ import annotations

from permmoe.federated.module_records import PACKED, write_modules
from tests.support.records import PACKED_MODEL, WEIGHTS


def test_all_modules_are_one_flat_array() -> None:
    record, modules = write_modules(PACKED_MODEL.modules), PACKED_MODEL.modules
    assert {name: array.shape for name, array in record.items()} == {PACKED: (4 * sum(map(len, WEIGHTS.values())),)}
    assert write_modules({name: modules[name] for name in reversed(modules)})[PACKED].data == record[PACKED].data
