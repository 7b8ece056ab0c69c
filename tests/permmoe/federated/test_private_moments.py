"""A ridge's moments as one matrix over patients: against the moments themselves, over sites, and at its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from permmoe.config import ModelConfig, MomentsPrivacy, RidgeConfig
from permmoe.data.dataset import VisitData
from permmoe.errors import DataError
from permmoe.federated.fixed_point import to_fixed_point
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.private_moments import (
    EXACT,
    RowLayout,
    block_updates,
    least_patients,
    patient_rows,
    summed_products,
)
from permmoe.model import PerMMoE
from permmoe.training.means import observed_rows, ridge_features, set_means
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

CONFIG = small_config(n_volumes=2, n_tables=2, ridge=RidgeConfig(cells=(1, 3, 1), share=1.0))
ROOMY = MomentsPrivacy(row_norm=1000.0)
N = 41


def rows_of(config: ModelConfig, data: VisitData, privacy: MomentsPrivacy = ROOMY) -> tuple[RowLayout, np.ndarray]:
    model = PerMMoE(config)
    assert model.ridge
    layout = RowLayout(model.ridge.sizes, privacy)
    features = ridge_features(model, data)
    return layout, patient_rows(layout, features, observed_rows(data), data.baseline, data.target)


def modules(config: ModelConfig = CONFIG) -> ModuleLayout:
    return ModuleLayout.of(PerMMoE(config))


def test_blocks_without_noise_are_the_moments_that_the_ridge_takes_by_itself() -> None:
    data = small_visits(CONFIG, N, seed=2)
    layout, rows = rows_of(CONFIG, data)
    updates = block_updates(layout, modules(), summed_products(rows, ROOMY.row_norm))
    model = PerMMoE(CONFIG)
    record = set_means(model, data)
    expected = modules().flatten_all(model.state_dict())
    ridge = [name for name in modules().modules if name.startswith("ridge/")]
    assert sorted(updates) == sorted(ridge) and len(ridge) == 1 + 4 + 6
    for name, update in updates.items():
        mean = update.weighted_delta / update.support
        known = torch.ones(len(mean), dtype=torch.bool)
        if "/" not in name.removeprefix("ridge/") and not name.endswith("all-visits"):
            # The corner of score and outcome, which nothing reads.
            size = layout.sizes[name.removeprefix("ridge/")] + 2
            corner = torch.zeros(size, size, dtype=torch.bool)
            corner[-2:, -2:] = True
            known[2 * size :] = ~corner.flatten()
        # Each patient's products are rounded to 1/64 of the row's own unit, four times that for two scores.
        assert torch.allclose(mean[known], expected[name][known], atol=0.04), name
    assert updates["ridge/all-visits"].support == N
    assert updates["ridge/table0"].support == record.exposure.observed["table0"]


def test_sums_over_sites_are_those_of_all_patients_in_one_place_bit_by_bit() -> None:
    """Else a sum would tell more than its noise covers."""
    layout, rows = rows_of(CONFIG, small_visits(CONFIG, N, seed=3))
    noise = np.random.default_rng(1).integers(-5000, 5000, (3, layout.size * (layout.size + 1) // 2))
    of_sites = [summed_products(own, 3.0) + z for own, z in zip(np.array_split(rows, 3), noise, strict=True)]
    together = block_updates(layout, modules(), summed_products(rows, 3.0) + noise.sum(0))
    parts = [block_updates(layout, modules(), own) for own in of_sites]
    for name, update in together.items():
        total = sum(to_fixed_point(part[name].weighted_delta)[0] for part in parts)
        assert torch.equal(to_fixed_point(update.weighted_delta)[0], total), name
        assert update.support == sum(part[name].support for part in parts)


def test_all_blocks_follow_from_the_numbers_that_got_noise() -> None:
    layout, rows = rows_of(CONFIG, small_visits(CONFIG, N, seed=4))
    triangle = summed_products(rows, 3.0)
    before = block_updates(layout, modules(), triangle)
    after = block_updates(layout, modules(), triangle + 64)
    assert all((after[name].weighted_delta != update.weighted_delta).any() for name, update in before.items())


def test_a_patient_far_from_the_usual_counts_for_less_in_every_number_alike() -> None:
    _, rows = rows_of(CONFIG, small_visits(CONFIG, 1, seed=5))
    usual = float((rows**2).sum()) ** 0.5
    whole, half = (summed_products(rows, norm) for norm in (usual, usual / 2**0.5))
    assert np.abs(whole / 2 - half).max() <= 1
    assert np.array_equal(whole, summed_products(rows, 2 * usual)), "who is within the bound counts as one"


def test_a_row_that_is_no_number_is_an_error_and_is_in_no_sum() -> None:
    _, rows = rows_of(CONFIG, small_visits(CONFIG, 3, seed=6))
    rows[1, 3] = np.nan
    with pytest.raises(DataError, match="permmoe data inspect"):
        summed_products(rows, 3.0)


def test_more_patients_than_a_sum_holds_exactly_are_an_error_that_says_what_to_do() -> None:
    layout, rows = rows_of(CONFIG, small_visits(CONFIG, 3, seed=7))
    triangle = summed_products(rows, 3.0)
    triangle[0] = EXACT
    with pytest.raises(DataError, match="two sites"):
        block_updates(layout, modules(), triangle)


def test_blocks_of_so_few_patients_that_they_would_be_noise_are_left_out() -> None:
    observed = torch.ones(N, 4, dtype=torch.bool)
    observed[3:, 3] = False
    layout, rows = rows_of(CONFIG, small_visits(CONFIG, N, seed=8, observed=observed))
    found = block_updates(layout, modules(), summed_products(rows, 1000.0), least_patients(0.1, min_cell_count=5))
    assert not any("table1" in name for name in found) and "ridge/volume0/table0" in found
    assert least_patients(10.0, 5) > 20


def test_scales_are_powers_of_two_so_that_sums_stay_exact() -> None:
    assert MomentsPrivacy(outcome_scale_points=0.25).outcome_scale_points == 0.25
    with pytest.raises(ValidationError, match="no power of 2"):
        MomentsPrivacy(score_scale_points=3.0)
