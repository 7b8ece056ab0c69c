"""Places in scans add up to the prediction, and for the ridge they are the closed form."""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F
from captum.attr import ShapleyValues
from torch import Tensor

from permmoe.config import EncoderConfig, RidgeConfig
from permmoe.data.batch import Batch
from permmoe.explanation.atlas import REGIONS, cell_shares
from permmoe.explanation.places import _Game, places, sampled_shapley
from permmoe.model import PerMMoE
from permmoe.training.means import set_means
from tests.support.model_batches import small_config
from tests.support.small_visits import alone, small_visits

CELLS, COARSE = (4, 5, 3), (2, 3, 2)


def trained(share: float | None) -> PerMMoE:
    """Means and moments as a training sets them; `share`: the ridge's part, none without a ridge."""
    ridge = None if share is None else RidgeConfig(cells=COARSE, penalty=0.1, share=share)
    config = small_config(2, 1, encoder=EncoderConfig(cells=CELLS, dropout=0.0, tabular_width=17), ridge=ridge)
    torch.manual_seed(1)
    network = PerMMoE(config)
    set_means(network, small_visits(config, 61, seed=7))
    with torch.no_grad():
        network.head.out.weight.mul_(20)
    return network.eval()


def a_visit(network: PerMMoE, *names: str) -> Batch:
    everything = torch.ones(1, len(network.config.modalities), dtype=torch.bool)
    return alone(small_visits(network.config, 1, seed=11, observed=everything), 0, names)


def free(changes: Tensor) -> Tensor:
    return changes


def prediction(network: PerMMoE, batch: Batch) -> float:
    with torch.no_grad():
        return float(network(batch).prediction)


@pytest.mark.parametrize("share", [None, 0.5, 1.0])
def test_places_and_the_average_add_up_to_the_prediction(share: float | None) -> None:
    network = trained(share)
    batch = a_visit(network, "volume0", "volume1", "table0")
    found = places(network, batch, free)
    assert found is not None
    total = found.average + sum(found.of(name) for name in found.parts)
    assert total == pytest.approx(prediction(network, batch), abs=2e-5)
    assert max(abs(found.of(name)) for name in found.parts) > 0.01


def test_the_places_of_a_ridge_are_weight_times_difference_from_the_mean() -> None:
    """The slow way: every coarse cell of the ridge, spread over the cells of the encoder that it is the mean of."""
    network = trained(share=1.0)
    batch = a_visit(network, "volume0", "volume1")
    found = places(network, batch, free)
    assert found is not None and network.ridge is not None
    weights = network.ridge.weights(0b011)
    shares = cell_shares(network.config.grid, CELLS)
    for name in ("volume0", "volume1"):
        centre = network.encoders[name].features.centre.detach()[None]
        difference = (batch.inputs[name] - centre).double()
        of_cells = torch.zeros(CELLS, dtype=torch.float64)
        for place in range(prod(CELLS)):
            alone_there = torch.zeros_like(difference)
            alone_there.view(-1)[place] = difference.view(-1)[place]
            of_cells.view(-1)[place] = F.adaptive_avg_pool3d(alone_there, COARSE).flatten() @ weights.features[name]
        slow = {region: float((shares[row] * of_cells).sum()) for row, region in enumerate(REGIONS)}
        assert found.parts[name] == pytest.approx(slow, abs=1e-5)


def test_a_withheld_scan_has_no_place() -> None:
    network = trained(0.5)
    found = places(network, a_visit(network, "volume1"), free)
    assert found is not None and list(found.parts) == ["volume1"]


def test_an_average_scan_comes_from_nowhere() -> None:
    network = trained(0.5)
    batch = a_visit(network, "volume0", "volume1")
    average = network.encoders["volume1"].features.centre.detach()[None]
    batch = Batch({**batch.inputs, "volume1": average}, batch.observed, batch.baseline, batch.target)
    found = places(network, batch, free)
    assert found is not None
    assert found.parts["volume1"] == pytest.approx(dict.fromkeys(REGIONS, 0.0), abs=1e-6)
    assert any(abs(value) > 1e-3 for value in found.parts["volume0"].values())


def test_a_region_in_which_the_scan_is_average_adds_nothing() -> None:
    network = trained(0.5)
    batch = a_visit(network, "volume0")
    average = network.encoders["volume0"].features.centre.detach()[None]
    shares = cell_shares(network.config.grid, CELLS)
    row = REGIONS.index("left occipital")
    own = torch.where(shares[row] > 0, average, batch.inputs["volume0"])
    found = places(network, Batch({"volume0": own}, batch.observed, batch.baseline, batch.target), free)
    assert found is not None and found.parts["volume0"]["left occipital"] == pytest.approx(0, abs=1e-6)


def test_equal_visits_get_equal_places_and_nobodys_randomness_is_used() -> None:
    network = trained(None)
    batch = a_visit(network, "volume0", "table0")
    torch.manual_seed(99)
    first, after = places(network, batch, free), torch.rand(1)
    second = places(network, batch, free)
    torch.manual_seed(99)
    assert first == second and torch.equal(after, torch.rand(1))


def test_sampled_values_are_those_of_captum_in_the_limit() -> None:
    """The library takes other orders; both estimate the values that all orders together give."""
    network = trained(None)
    game = _Game.of(network, a_visit(network, "table0", "volume0"))
    assert game is not None
    few = torch.arange(len(game.players)) % 5  # five players, so that all 120 orders can be asked

    @torch.no_grad()
    def value(present: Tensor) -> Tensor:
        return network(game.batch(present[:, few])).prediction

    exact = ShapleyValues(value).attribute(torch.ones(1, 5), baselines=torch.zeros(1, 5))[0]
    samples = [sampled_shapley(value, 5, torch.Generator().manual_seed(seed)) for seed in range(40)]
    found = torch.stack(samples).mean(0)
    error = torch.stack(samples).std(0) / 40**0.5
    assert ((found - exact).abs() < 4 * error + 1e-5).all()
    assert exact.abs().max() > 0.01


def test_what_two_players_do_together_is_shared_without_error() -> None:
    torch.manual_seed(4)
    matrix = torch.randn(7, 7, dtype=torch.float64)
    found = sampled_shapley(
        lambda present: torch.einsum("np,pq,nq->n", present.double(), matrix, present.double()), 7, torch.Generator()
    )
    torch.testing.assert_close(found, matrix.diagonal() + ((matrix + matrix.T) / 2).sum(1) - matrix.diagonal())


def test_a_model_that_reads_voxels_holds_no_average_to_compare_with() -> None:
    config = small_config(1, 1, encoder=EncoderConfig(kind="sfcn_lite"), grid={"shape": (32, 32, 32), "spacing_mm": 6})
    network = PerMMoE(config).eval()
    everything = torch.ones(1, 2, dtype=torch.bool)
    batch = small_visits(config, 1, observed=everything).batch(torch.tensor([0]))
    assert places(network, batch, free) is None
