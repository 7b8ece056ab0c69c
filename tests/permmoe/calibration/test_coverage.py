"""The intervals of many visits at once are those that each visit is given by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permmoe.calibration.calibrate import calibrate, predicted
from permmoe.calibration.calibration import change_bounds, intervals_of
from permmoe.calibration.coverage import interval_ends
from permmoe.modality import all_combinations
from permmoe.model import PerMMoE
from tests.support.small_visits import small_visits
from tests.support.tiny_federation import MODEL


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [6, 30, 700])
@pytest.mark.parametrize("spread", ["none", "laplace"])
def test_ends_of_many_visits_are_those_of_each_by_itself(level: float, n: int, spread: str) -> None:
    config = MODEL.model_copy(update={"spread": spread})
    torch.manual_seed(0)
    network = PerMMoE(config).eval()
    made = calibrate(network, small_visits(config, max(n, 9), seed=1), source="")
    assert made is not None
    counts, new = made.counts(config.names), small_visits(config, 25, seed=2)
    predictions, scales = predicted(network, new)
    baseline = new.baseline.double().numpy()
    low, high = interval_ends(counts, config, predictions, scales, baseline, level)
    for i in range(len(new)):
        bounds = change_bounds(float(baseline[i]), config)
        for j, combination in enumerate(all_combinations(config.names)):
            if np.isnan(predictions[i, j]):
                assert np.isnan(low[i, j])
                continue
            own = intervals_of(
                made, counts, config, combination=combination, baseline=float(baseline[i]),
                change=float(np.clip(predictions[i, j], *bounds)), spread=float(scales[i, j]),
            )  # fmt: skip
            found = [(one.low, one.high) for one in own if one.level == level]
            if found:
                assert found[0] == pytest.approx((low[i, j], high[i, j]))
            else:
                assert np.isnan(low[i, j])
