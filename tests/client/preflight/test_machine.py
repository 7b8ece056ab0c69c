"""The machine that a site runs on."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from permmoe_client.preflight.surroundings import Surroundings
from tests.support.preflight_faults import date
from tests.support.preflight_hospital import (
    NOW,
    Hospital,
)
from tests.support.preflight_reports import wrong
from tests.support.pretended_gpu import pretend_gpus


def test_a_clock_may_be_minutes_behind_and_not_ahead(hospital: Hospital) -> None:
    hospital.serve(header=lambda: date(NOW))
    for seconds, is_right in ((-400, False), (-200, True), (3, True), (20, False)):
        moment = NOW + timedelta(seconds=seconds)
        hospital.machine(now=lambda moment=moment: moment)
        assert ("machine.clock" not in wrong(hospital.check())) == is_right, seconds


def test_the_device_is_what_a_round_would_be_computed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Surroundings().compute
    monkeypatch.setattr(torch.version, "cuda", None)
    assert compute("auto") == "cpu; this build of PyTorch is for CPUs alone" and compute("cpu") == "cpu"
    pretend_gpus(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 10**9, 24 * 10**9))
    assert compute("cuda") == "a card, 3.0 GB of 24.0 GB free"
    assert compute("auto").endswith("for encoders that are faster there; for others the CPU")
