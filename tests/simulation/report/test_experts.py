"""Experts: balance, and routers that differ over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe_simulation.report.experts import experts_section, router_consistency
from tests.support.report_page import texts, view
from tests.support.study_files import write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, methods=("permmoe", "flexmoe", "local", "null"))


def activation(shares: dict[int, list[float]]) -> pd.DataFrame:
    rows = [
        {"method": "m", "regime": "r", "seed": str(seed), "combination": "t1", "modality": "t1", "expert": str(e),
         "share": s}
        for seed, of in shares.items() for e, s in enumerate(of)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_routers_that_agree_vary_by_nothing_and_swapped_experts_by_as_much_as_chance() -> None:
    same = router_consistency(activation({0: [0.7, 0.2, 0.1], 1: [0.7, 0.2, 0.1]})).iloc[0]
    assert (same.sd, same.relative) == (0, 0) and same.is_observed
    swapped = router_consistency(activation({0: [0.9, 0.1], 1: [0.1, 0.9]})).iloc[0]
    assert swapped.sd == pytest.approx(np.std([0.9, 0.1], ddof=1)) and swapped.relative > 1
    generator = np.random.default_rng(0)
    at_random = activation({s: list(generator.permutation([0.6, 0.2, 0.1, 0.05, 0.05])) for s in range(997)})
    assert router_consistency(at_random).iloc[0].relative == pytest.approx(1, abs=0.02)


def test_router_variance_of_one_seed_is_not_told() -> None:
    assert router_consistency(activation({0: [0.7, 0.3]})).empty


def test_balance_of_experts_is_said_in_a_sentence(study: Path) -> None:
    table = pd.read_csv(study / "routing.csv")
    table.assign(collapsed_experts=0, load_cv=0.25).to_csv(study / "routing.csv", index=False)
    assert "with PerM-MoE no expert collapsed and the load CV is 0.25" in texts(experts_section(view(study)))
