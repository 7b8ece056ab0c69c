"""What parts cost: sums over sites and rounds, held against the plain federation, whatever the rows' order."""

from __future__ import annotations

import pandas as pd
import pytest

from permmoe.errors import ConfigurationError
from permmoe_benchmarks.measurements.costs_of_parts import costs_of, costs_page
from permmoe_simulation.report.files import Study
from permmoe_simulation.summary import MethodSummary, Summary

SUMMARY = Summary(
    study="costs", synthetic=True, modalities=("t1",), seeds=(0,), date="2026-01-05", machine="a machine",
    command="python simulation/run.py costs.yaml", digests={"study": "0f" * 32}, versions={"torch": "2.0"},
    methods={"secure": MethodSummary(label="secure sum"), "plain": MethodSummary(label="plain one")},
)  # fmt: skip


def rounds_of(method: str, rounds: int, bytes_up: int, seconds: float) -> list[dict[str, object]]:
    return [
        {"method": method, "regime": "site", "seed": 0, "round": k, "site": site, "bytes_down": 1_000_000,
         "bytes_up": bytes_up, "train_seconds": seconds, "server_seconds": 0.5}
        for k in range(1, rounds + 1) for site in ("a", "b")
    ]  # fmt: skip


def study(*rows: dict[str, object]) -> Study:
    costs = [{"method": m, "regime": "site", "seed": 0, "seconds": s} for m, s in (("plain", 10.0), ("secure", 15.0))]
    return Study(SUMMARY, {"rounds": pd.DataFrame(rows), "costs": pd.DataFrame(costs)}, None)


SECURE, PLAIN = rounds_of("secure", 3, 3_000_000, 2.0), rounds_of("plain", 3, 1_000_000, 1.0)


def test_bytes_and_training_are_those_of_all_sites_and_rounds() -> None:
    found = costs_of(study(*reversed(SECURE + PLAIN)))
    assert list(found.index) == ["plain", "secure"]
    assert found.loc["plain"].to_dict() == {
        "rounds": 3, "megabytes": 12.0, "training": 6.0, "seconds": 10.0,
    }  # fmt: skip


def test_the_page_holds_every_part_against_the_plain_federation() -> None:
    page = costs_page(study(*SECURE, *PLAIN), "python costs.py")
    assert "| plain one | 3 | 12.0 | 1.00 | 6.0 | 1.00 | 10.0 | 1.00 |" in page
    assert "| secure sum | 3 | 24.0 | 2.00 | 12.0 | 2.00 | 15.0 | 1.50 |" in page
    assert "SYNTHETIC DATA" in page and "`python costs.py`" in page and "study `0f0f0f0f`" in page


def test_training_that_a_secure_sum_does_not_tell_is_no_number() -> None:
    silent = [{**row, "train_seconds": float("nan")} for row in SECURE]
    assert "| secure sum | 3 | 24.0 | 2.00 | – | – | 15.0 | 1.50 |" in costs_page(study(*silent, *PLAIN), "costs")


def test_costs_without_a_plain_federation_are_refused_and_the_command_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"run configs/studies/costs\.yaml first"):
        costs_page(study(*SECURE), "python costs.py")
