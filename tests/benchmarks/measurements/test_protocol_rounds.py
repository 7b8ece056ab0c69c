"""Thin sites take part in the server's real rounds."""

from __future__ import annotations

import pytest

from permmoe_benchmarks.measurements.protocol_rounds import plain_round


def test_thin_sites_take_part_in_real_rounds() -> None:
    found = plain_round(3, 1)
    assert found["bytes"] == pytest.approx(3 * (found["bytes_down"] + found["bytes_up"]))
    assert found["bytes_up"] > found["model_bytes"]
    assert found["server_seconds"] > 0 and found["ledger_entry_bytes"] > 0
