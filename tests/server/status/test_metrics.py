"""The Prometheus metrics, read from the admin port."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus, Machine, RegionStatus

Served = Callable[[StatusBoard], AbstractContextManager[str]]


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_region_that_does_not_answer_is_named_and_the_end_of_its_certificate_stays_known(
    status: CoordinatorStatus, served: Served, now: datetime
) -> None:
    machine = Machine("1.0", now, now, 7)
    regions = (RegionStatus("alps", True), RegionStatus("coast", False, now))
    with served(StatusBoard(replace(status, regions=regions, machine=machine))) as url:
        found = samples(httpx.get(f"{url}/metrics").text)
    assert found["permmoe_region_up", "alps"] == 1 and found["permmoe_region_up", "coast"] == 0
    assert found["permmoe_certificate_end_timestamp_seconds", "region", "coast"] == now.timestamp()


def test_metrics_are_prometheus_and_hold_no_word_that_a_site_chose(status: CoordinatorStatus, served: Served) -> None:
    with served(StatusBoard(status)) as url:
        text = httpx.get(f"{url}/metrics").text
    found = samples(text)
    assert found["permmoe_rounds_done",] == 3 and found["permmoe_sites_online",] == 1
    assert found["permmoe_rejected_replies_total", "not_finite"] == 3
    assert found["permmoe_rejected_replies_total", "site_error"] == 3
    assert found["permmoe_gateway_refusals_total", "handshake"] == 5
    assert found["permmoe_validation_rmse_points", "t1", "synthetic"] == pytest.approx(1.0)
    assert "PatientError12345" not in text
