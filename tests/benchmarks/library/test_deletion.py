"""Deletions put the average in place of what they name, and a random one takes as much as the region it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from permmoe.explanation.atlas import OUTSIDE, REGIONS, cell_shares
from permmoe.explanation.places import average_input
from permmoe_benchmarks.library.deletion import deleted_balls, deleted_regions, predictions_without
from tests.support.explained_visits import small_model
from tests.support.small_visits import alone, small_visits

CELLS = (6, 7, 6)


def test_without_all_regions_a_scan_is_average_and_without_none_it_is_its_own() -> None:
    network = small_model().network
    everything = torch.ones(1, 3, dtype=torch.bool)
    batch = alone(small_visits(network.config, 1, seed=3, observed=everything), 0, ("t1", "tau"))
    everywhere = deleted_regions(network, [(name, region) for name in ("t1", "tau") for region in REGIONS])
    found = predictions_without(network, batch, [everywhere, {}])
    with torch.no_grad():
        own = network(batch).prediction
        batch.inputs.update({m.name: average_input(network, m) for m in network.config.modalities[:2]})
        average = network(batch).prediction
    torch.testing.assert_close(found, torch.cat([average, own]))
    assert abs(float(own - average)) > 0.01


@pytest.mark.parametrize("region", ["left medial temporal lobe", "brainstem", "right occipital"])
def test_a_ball_has_the_size_of_its_region_and_lies_in_the_brain(region: str) -> None:
    network = small_model().network
    shares = cell_shares(network.config.grid, CELLS)
    wanted = float(shares[REGIONS.index(region)].sum())
    for seed in range(5):
        ball = deleted_balls(network, [("t1", region)], np.random.default_rng(seed))["t1"]
        assert float(ball.sum()) == pytest.approx(wanted, abs=1e-4)
        assert not ball[shares[REGIONS.index(OUTSIDE)] == 1].any() and ball.max() <= 1
