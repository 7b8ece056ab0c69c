"""The Prometheus metrics, read from the admin port."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus

Served = Callable[[StatusBoard], AbstractContextManager[str]]


def test_metrics_are_prometheus_and_hold_no_word_that_a_site_chose(status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(status)) as url:
        text = httpx.get(f"{url}/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["permmoe_rounds_done",] == 3 and found["permmoe_sites_online",] == 1
    assert found["permmoe_rejected_replies_total", "not_finite"] == 3
    assert found["permmoe_rejected_replies_total", "site_error"] == 3
    assert found["permmoe_gateway_refusals_total", "handshake"] == 5
    assert found["permmoe_validation_rmse_points", "t1", "synthetic"] == pytest.approx(1.0)
    assert "PatientError12345" not in text
