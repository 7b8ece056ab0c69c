"""ComBat in a federation: against a slow reference in one place, and what it does to scanners that were planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from permmoe.config import HarmonisationConfig
from permmoe.layers.harmonisation import Harmonisation, Shared, SiteEffect, SiteMoments
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from tests.support.harmonised_sites import AGE, CONFIG, HARMONISATION, SLOPES, Measured, averaged, measured
from tests.support.model_batches import small_config

SITES, FEATURES = 7, 11


def planted(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Shifts and scales of every site and feature."""
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randn(SITES, FEATURES, generator=generator, dtype=torch.float64)
    return shifts, torch.exp(0.3 * torch.randn(SITES, FEATURES, generator=generator, dtype=torch.float64))


def alike() -> tuple[Tensor, Tensor]:
    return torch.zeros(SITES, FEATURES, dtype=torch.float64), torch.ones(SITES, FEATURES, dtype=torch.float64)


def known(moments: SiteMoments) -> Shared:
    shared = moments.shared()
    assert shared is not None
    return shared


def effect_of(shared: Shared, site: Measured, config: HarmonisationConfig = HARMONISATION) -> SiteEffect:
    model = Harmonisation(CONFIG.model_copy(update={"harmonisation": config}))
    return model.effect(shared, site.values, site.covariates)


def cleaned(shared: Shared, site: Measured) -> Tensor:
    return Harmonisation.without(shared, effect_of(shared, site), site.values, site.covariates)


def in_one_place(sites: list[Measured]) -> Shared:
    """All visits in one table: least squares with a column for each site, and every number by its definition."""
    sizes = np.array([len(site.values) for site in sites])
    n, share = sizes.sum(), sizes / sizes.sum()
    x = np.concatenate([site.covariates.numpy() for site in sites])
    y = np.concatenate([site.values.numpy() for site in sites])
    dummies = np.repeat(np.eye(len(sites)), sizes, axis=0)
    slopes = np.linalg.lstsq(np.column_stack([dummies, x]), y, rcond=None)[0][len(sites) :]
    residuals = [site.values.numpy() - site.covariates.numpy() @ slopes for site in sites]
    own_mean = np.stack([r.mean(0) for r in residuals])
    intercept = share @ own_mean
    inside = sum(((r - m) ** 2).sum(0) for r, m in zip(residuals, own_mean, strict=True)) / (n - len(sites))
    between = share @ (own_mean - intercept) ** 2
    variances, squares = [], []
    for site in sites:
        table = np.column_stack([np.ones(len(site.values)), site.covariates.numpy()])
        own = site.values.numpy() - table @ np.linalg.lstsq(table, site.values.numpy(), rcond=None)[0]
        freedom = len(table) - table.shape[1]
        variances.append((own**2).sum(0) / freedom)
        squares.append(variances[-1] ** 2 * freedom / (freedom + 2))
    spread = share @ np.stack(squares) / (share @ np.stack(variances)) ** 2 - 1
    return Shared(
        torch.from_numpy(intercept), torch.from_numpy(slopes), torch.from_numpy(np.sqrt(inside)),
        max(float((between / inside).mean() - len(sites) / n), 0.0), max(float(spread.mean()), 0.0),
    )  # fmt: skip


def textbook_effect(shared: Shared, site: Measured) -> SiteEffect:
    """ComBat's two equations for one feature after the other, repeated a thousand times."""
    shifts, scales = [], []
    for j in range(site.values.shape[1]):
        left = (site.values - shared.intercept - site.covariates @ shared.slopes)[:, j] / shared.deviation[j]
        n, gamma, delta2 = len(left), 0.0, 1.0
        shape = 1 / shared.scale_variance + 2
        rate = shape - 1
        for _ in range(1000):
            gamma = n * shared.shift_variance * float(left.mean()) / (n * shared.shift_variance + delta2)
            delta2 = (rate + 0.5 * float((left - gamma).square().sum())) / (n / 2 + shape - 1)
        shifts.append(gamma)
        scales.append(delta2**0.5)
    return SiteEffect(torch.tensor(shifts, dtype=torch.float64), torch.tensor(scales, dtype=torch.float64))


def test_sums_over_sites_tell_what_all_visits_in_one_place_tell() -> None:
    sites = measured(*planted(), n=(23, 29, 31, 37, 41, 43, 47))
    found, expected = known(averaged(sites)), in_one_place(sites)
    for name in ("intercept", "slopes", "deviation"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-3, rtol=1e-3)
    assert found.shift_variance == pytest.approx(expected.shift_variance, rel=1e-3) and found.shift_variance > 0.3
    assert found.scale_variance == pytest.approx(expected.scale_variance, rel=1e-3) and found.scale_variance > 0.1


def test_a_sites_own_shift_and_scale_are_combats() -> None:
    sites = measured(*planted(), n=31)
    shared = known(averaged(sites))
    found, expected = effect_of(shared, sites[2]), textbook_effect(shared, sites[2])
    torch.testing.assert_close(found.shift, expected.shift, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.scale, expected.scale, atol=1e-7, rtol=0)


def test_planted_scanners_are_found_and_removed() -> None:
    shifts, scales = planted()
    sites = measured(shifts, scales, n=4001)
    shared = known(averaged(sites))
    torch.testing.assert_close(shared.slopes, SLOPES[:, None].expand(3, FEATURES), atol=0.02, rtol=0)
    after = [cleaned(shared, site) - site.covariates @ SLOPES[:, None] for site in sites]
    means, deviations = (torch.stack([f(own) for own in after]) for f in (lambda v: v.mean(0), lambda v: v.std(0)))
    assert float((means - means.mean(0)).abs().max()) < 0.05 and float(deviations.std(0).max()) < 0.02
    before = torch.stack([site.values.mean(0) - (site.covariates @ SLOPES).mean() for site in sites])
    assert float((before - before.mean(0)).abs().max()) > 0.5


@pytest.mark.parametrize("n", [101, 20_011])
def test_where_sites_are_alike_images_stay_the_closer_to_what_they_were_the_more_there_are(n: int) -> None:
    sites = measured(*alike(), n=n)
    shared = known(averaged(sites))
    moved = max(float((cleaned(shared, site) - site.values).abs().max()) for site in sites)
    assert moved < (0.1 if n < 1000 else 0.03)


def test_a_single_site_is_its_own_mean_and_stays_as_it_is() -> None:
    [site] = measured(*(effects[:1] for effects in planted()), n=4001)
    shared = known(averaged([site]))
    assert shared.shift_variance == 0
    torch.testing.assert_close(cleaned(shared, site), site.values, atol=0.05, rtol=0.02)


def test_the_order_of_sites_changes_nothing() -> None:
    sites = measured(*planted(), n=(23, 29, 31, 37, 41, 43, 47))
    one, other = known(averaged(sites)), known(averaged(sites[::-1]))
    torch.testing.assert_close(cleaned(one, sites[1]), cleaned(other, sites[1]), atol=1e-4, rtol=1e-4)


def test_a_site_that_never_trained_is_brought_to_the_others() -> None:
    shifts, scales = planted()
    sites = measured(shifts, scales, n=801)
    *trained, new = sites
    shared = known(averaged(trained))
    centre = torch.stack([cleaned(shared, site) - site.covariates @ SLOPES[:, None] for site in trained]).mean((0, 1))
    gap = cleaned(shared, new) - new.covariates @ SLOPES[:, None] - centre
    raw = new.values - new.covariates @ SLOPES[:, None] - centre
    assert float(gap.mean(0).abs().max()) < 0.2 * float(raw.mean(0).abs().max())


def test_a_few_patients_are_shrunk_more_than_many() -> None:
    shared = known(averaged(measured(0.3 * planted()[0], planted()[1], n=401)))
    far = torch.full((1, FEATURES), 3.0, dtype=torch.float64), torch.ones(1, FEATURES, dtype=torch.float64)
    few, many = (effect_of(shared, measured(*far, n=n, seed=5)[0]) for n in (3, 1009))
    assert float(few.shift.mean()) < 0.6 * float(many.shift.mean()) and float(many.shift.mean()) > 2.5


def test_sicker_patients_at_a_site_are_no_scanner() -> None:
    """Sites' mean scores differ by six points; without the covariate their features would be taken for shifted."""
    sites = measured(*alike(), n=401)
    shared = known(averaged(sites))
    blind = known(averaged([Measured(site.values, site.covariates[:, 1:]) for site in sites]))
    assert shared.shift_variance < 0.01 and blind.shift_variance > 1


def test_without_scales_values_are_moved_and_not_stretched() -> None:
    sites = measured(*planted(), n=101)
    effect = effect_of(known(averaged(sites)), sites[0], HARMONISATION.model_copy(update={"is_scaled": False}))
    assert bool((effect.scale == 1).all()) and float(effect.shift.abs().max()) > 0.5


def test_a_feature_that_is_constant_but_for_rounding_stays_as_it_is() -> None:
    sites = measured(*planted(), n=53)
    for site in sites:
        site.values[:, 4] = 0.25 + 1e-5 * site.values[:, 3]
    shared = known(averaged(sites))
    assert [int(j) for j in (~shared.varies).nonzero()] == [4]
    torch.testing.assert_close(cleaned(shared, sites[0])[:, 4], sites[0].values[:, 4], atol=1e-12, rtol=0)


def test_a_covariate_that_does_not_vary_has_no_slope() -> None:
    sites = [Measured(s.values, torch.cat([s.covariates[:, :2], torch.ones(53, 1).double()], 1))
             for s in measured(*planted(), n=53)]  # fmt: skip
    assert bool((known(averaged(sites)).slopes[2] == 0).all())


def test_moments_that_no_site_set_tell_nothing() -> None:
    assert SiteMoments(3, FEATURES).shared() is None


def test_a_harmonisation_changes_no_initial_weight() -> None:
    plain = make_model(CONFIG.model_copy(update={"harmonisation": None}), 5).state_dict()
    own = make_model(CONFIG, 5).state_dict()
    assert all(torch.equal(own[name], value) for name, value in plain.items())
    assert all(name.startswith("harmonisation.moments.") for name in set(own) - set(plain))


def test_inputs_come_back_from_their_values() -> None:
    model = PerMMoE(CONFIG).harmonisation
    assert model is not None
    for name, shape in (("volume0", (3, 1, 2, 3, 5)), ("table1", (3, 2))):
        inputs = torch.randn(*shape)
        torch.testing.assert_close(model.inputs(name, model.values(name, inputs), inputs), inputs)


def test_an_encoder_of_voxels_has_no_harmonisation() -> None:
    with pytest.raises(ValidationError, match="harmonisation is of the cells of a coarse grid"):
        small_config(encoder={"kind": "sfcn_lite"}, harmonisation=HARMONISATION)


def test_a_covariate_is_named_once() -> None:
    with pytest.raises(ValidationError, match="covariates are named twice"):
        HarmonisationConfig(covariates=(AGE, AGE))
