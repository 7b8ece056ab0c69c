"""The status as data."""

from __future__ import annotations

from permmoe_server.status.coordinator_status import CoordinatorStatus, parse_status, status_json


def test_the_status_comes_back_from_its_json(status: CoordinatorStatus) -> None:
    assert parse_status(status_json(status)) == status
