"""The closed-form ridge: against a slow reference, over sites, where blocks lack visits, beside the experts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from permmoe.config import ModelConfig, PrivacyConfig, RidgeConfig, TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.dataset import VisitData
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout, module_support
from permmoe.federated.plan import RoundPlan
from permmoe.federated.update import ModuleUpdate
from permmoe.layers import ridge as ridge_module
from permmoe.layers.ridge import BASELINE_PENALTY, CombinationRidge, solved_in_bases
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from tests.support.model_batches import small_config
from tests.support.scaled_components import scaled_components
from tests.support.small_visits import small_visits

RIDGE = RidgeConfig(cells=(1, 3, 2), penalty=0.3, share=0.25)
CONFIG = small_config(n_volumes=2, n_tables=1, ridge=RIDGE)
ALL = (1 << 3) - 1


def complete(n: int, config: ModelConfig = CONFIG, seed: int = 0) -> VisitData:
    return small_visits(config, n, seed, observed=torch.ones(n, len(config.modalities), dtype=torch.bool))


def measured(data: VisitData, config: ModelConfig = CONFIG) -> PerMMoE:
    model = make_model(config, 0)
    set_means(model, data)
    return model.eval()


def ridge_of(model: PerMMoE) -> CombinationRidge:
    assert model.ridge is not None
    return model.ridge


def predicted(ridge: CombinationRidge, batch: Batch) -> Tensor:
    features = {name: ridge.features(name, rows) for name, rows in batch.inputs.items() if len(rows)}
    prediction: Tensor = ridge(features, batch.observed, batch.baseline)
    return prediction


def everything(data: VisitData) -> Tensor:
    return torch.arange(len(data))


def textbook(train: VisitData, test: VisitData, ridge: CombinationRidge) -> np.ndarray:
    """Every visit complete: plain ridge on the scaled principal components, by the normal equations."""
    scaled_train, scaled_test = [], []
    for name in train.names:
        x, z = (ridge.features(name, d.batch(everything(d)).inputs[name]).numpy() for d in (train, test))
        own, others = scaled_components(x, z)
        scaled_train.append(own)
        scaled_test.append(others)
    b, y = train.baseline.double().numpy(), train.target.double().numpy()
    x = np.column_stack([(b - b.mean()) / b.std(), *scaled_train])
    z = np.column_stack([(test.baseline.double().numpy() - b.mean()) / b.std(), *scaled_test])
    penalty = np.full(x.shape[1], ridge.penalty)
    penalty[0] = BASELINE_PENALTY
    beta = np.linalg.solve(x.T @ x / len(x) + np.diag(penalty), x.T @ (y - y.mean()) / len(x))
    return np.asarray(z @ beta + y.mean())


def test_on_complete_visits_it_is_textbook_ridge_on_scaled_principal_components() -> None:
    train, test = complete(53), complete(17, seed=1)
    ridge = ridge_of(measured(train))
    found = predicted(ridge, test.batch(everything(test)))
    np.testing.assert_allclose(found.numpy(), textbook(train, test, ridge), atol=2e-4)


def test_a_combination_is_asked_with_its_own_weights_whatever_the_batch() -> None:
    ridge = ridge_of(measured(complete(53)))
    mixed = small_visits(CONFIG, 19, seed=2)
    together = predicted(ridge, mixed.batch(everything(mixed)))
    alone = torch.cat([predicted(ridge, mixed.batch(torch.tensor([row]))) for row in range(19)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_sites_averaged_by_their_visits_end_with_the_ridge_of_all_visits_in_one_place() -> None:
    sites = [small_visits(CONFIG, n, seed) for seed, n in enumerate((7, 23, 41))]
    assert_is_of_one_place(summed(sites), sites)


def test_a_sites_moments_subtracted_leave_the_sums_of_a_federation_that_never_had_it_to_the_last_bit() -> None:
    """So a centring round that is run again without a hospital is what subtracting it would give, and tells nobody its
    own moments, as the difference would."""
    gone, *others = sites = [small_visits(CONFIG, n, seed) for seed, n in enumerate((7, 23, 41))]
    everybody, own, expected = summed(sites), summed([gone]), summed(others)
    for name, module in everybody.modules.items():
        if name in own.modules:
            module.change -= own.modules[name].change
            module.weight -= own.modules[name].weight
    for name, module in expected.modules.items():
        assert torch.equal(everybody.modules[name].change, module.change)
        assert everybody.modules[name].weight == module.weight
    assert all(module.weight == 0 for name, module in everybody.modules.items() if name not in expected.modules)
    assert_is_of_one_place(expected, others)


def summed(sites: list[VisitData]) -> RunningSum:
    """The sum of a centring round of these sites."""
    start = make_model(CONFIG, 0)
    layout = ModuleLayout.of(start)
    before, running = layout.flatten_all(start.state_dict()), RunningSum()
    for site in sites:
        model = make_model(CONFIG, 0)
        exposure = set_means(model, site).exposure
        support = module_support(CONFIG, exposure)
        after = layout.flatten_all(model.state_dict())
        updates = {m: ModuleUpdate.of(before[m], after[m], support[m]) for m in layout.modules if support[m] > 0}
        running = fold(running, updates, float(len(site)))
    return running


def assert_is_of_one_place(running: RunningSum, sites: list[VisitData]) -> None:
    """That a sum leads to the ridge of all these sites' visits in one place."""
    expected, start = measured(_joined(sites)), make_model(CONFIG, 0)
    layout = ModuleLayout.of(start)
    before = layout.flatten_all(start.state_dict())
    after = before | {m: before[m] + change for m, change in mean_changes(running, before)}
    federated = PerMMoE(CONFIG)
    federated.load_state_dict(layout.unflatten(after))
    for module in (m for m in layout.modules if m.startswith("ridge/")):
        assert torch.allclose(after[module], layout.flatten(expected.state_dict(), module), atol=1e-4), module
    asked = small_visits(CONFIG, 31, seed=9)
    batch = asked.batch(everything(asked))
    assert torch.allclose(predicted(ridge_of(federated), batch), predicted(ridge_of(expected), batch), atol=1e-3)


def _joined(sites: list[VisitData]) -> VisitData:
    """All visits as one site's, by laying a fresh table over the rows of all."""
    n = sum(len(site) for site in sites)
    joined = small_visits(CONFIG, n, observed=torch.cat([site.observed for site in sites]))
    inputs = {}
    for name in CONFIG.names:
        rows = torch.cat([s.batch(everything(s)).inputs[name] for s in sites])
        inputs[name] = type(joined.inputs[name])(rows)
    return VisitData(
        joined.visits, joined.names, joined.observed, torch.cat([s.baseline for s in sites]),
        torch.cat([s.target for s in sites]), joined.stored_rows, inputs,
    )  # fmt: skip


def test_visits_without_a_modality_say_nothing_of_its_block_but_count_for_the_others() -> None:
    whole = complete(29)
    half = whole.observed.clone()
    half[:11, 2] = False
    few, all_ = ridge_of(measured(_observing(whole, half))), ridge_of(measured(whole))
    kept = ridge_of(measured(whole.subset(torch.arange(11, 29))))
    for name in ("table0", "volume0/table0"):
        assert torch.equal(few.moments[name].product, kept.moments[name].product)
    for name in ("volume0", "volume0/volume1", "all-visits"):
        assert torch.equal(few.moments[name].product, all_.moments[name].product)


def _observing(data: VisitData, observed: Tensor) -> VisitData:
    stored = torch.where(observed, data.stored_rows, -1)
    return VisitData(data.visits, data.names, observed, data.baseline, data.target, stored, data.inputs)


def test_a_modality_that_nobody_trained_on_is_not_listened_to() -> None:
    data = complete(37)
    nobody = data.observed.clone()
    nobody[:, 1] = False
    ridge = ridge_of(measured(_observing(data, nobody)))
    with_it, without = ridge.weights(0b111), ridge.weights(0b101)
    assert "volume1" not in with_it.features and with_it.intercept == pytest.approx(without.intercept)
    assert all(torch.allclose(with_it.features[n], without.features[n]) for n in without.features)


def test_blocks_over_different_visits_that_contradict_each_other_still_give_finite_weights() -> None:
    config = small_config(n_volumes=0, n_tables=3, ridge=RIDGE)
    ridge = CombinationRidge(config)
    with torch.no_grad():
        for name in config.names:
            ridge.moments[name].product.copy_(torch.eye(len(ridge.moments[name].left)))
        for pair, sign in (("table0/table1", 1.0), ("table1/table2", 1.0), ("table0/table2", -1.0)):
            ridge.moments[pair].product[0, 0] = sign  # correlations that no three variables can have
    weights = ridge.weights(ALL)
    assert all(bool(w.isfinite().all()) and w.abs().max() < 1 / RIDGE.penalty for w in weights.features.values())


def test_before_any_visit_was_seen_it_predicts_nothing() -> None:
    batch = complete(5).batch(torch.arange(5))
    assert torch.equal(predicted(CombinationRidge(CONFIG), batch), torch.zeros(5))


def test_weights_follow_the_moments_when_these_are_replaced() -> None:
    first, second = measured(complete(31)), measured(complete(31, seed=5))
    batch = complete(7, seed=6).batch(torch.arange(7))
    old = predicted(ridge_of(first), batch)
    new = predicted(ridge_of(second), batch)
    first.load_state_dict(second.state_dict())
    assert torch.equal(predicted(ridge_of(first), batch), new) and not torch.equal(old, new)


def test_moments_that_are_loaded_again_as_they_were_are_not_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[Tensor] = []

    def counted(matrix: Tensor, answer: Tensor, penalty: Tensor) -> Tensor:
        solved.append(answer)
        return solved_in_bases(matrix, answer, penalty)

    monkeypatch.setattr(ridge_module, "solved_in_bases", counted)
    model, batch = measured(complete(31)), complete(7, seed=6).batch(torch.arange(7))
    same, other = measured(complete(31)).state_dict(), measured(complete(31, seed=5)).state_dict()
    first = predicted(ridge_of(model), batch)
    model.load_state_dict(same)
    assert torch.equal(predicted(ridge_of(model), batch), first) and len(solved) == 1
    model.load_state_dict(other)
    assert not torch.equal(predicted(ridge_of(model), batch), first) and len(solved) == 2
    model.load_state_dict(same)
    assert torch.equal(predicted(ridge_of(model), batch), first) and len(solved) == 3


def test_directions_of_a_modality_are_found_once_for_all_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    ridge, found = ridge_of(measured(complete(31))), list[Tensor]()
    plainly = torch.linalg.eigh

    def counted(matrix: Tensor) -> tuple[Tensor, Tensor]:
        found.append(matrix)
        return plainly(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    combinations = range(1, 2 ** len(CONFIG.names))
    for mask in combinations:
        ridge.weights(mask)
    # One a combination, of its own matrix, and one a modality.
    assert len(found) == len(combinations) + len(CONFIG.names)


def test_prediction_is_the_share_of_both_and_training_sees_the_experts_alone() -> None:
    model = measured(complete(31))
    plain = PerMMoE(CONFIG.model_copy(update={"ridge": None})).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("ridge.")})
    batch = complete(7, seed=6).batch(torch.arange(7))
    experts = plain(batch).prediction
    expected = 0.75 * experts + 0.25 * predicted(ridge_of(model), batch)
    assert torch.allclose(model(batch).prediction, expected, atol=1e-6)
    quiet = small_config(n_volumes=2, n_tables=1, router_noise=False)
    model.config = quiet.model_copy(update={"ridge": RIDGE})
    torch.manual_seed(0)
    while_training = model.train()(batch).prediction
    torch.manual_seed(0)
    assert torch.equal(while_training, plain.train()(batch).prediction)


def test_no_step_of_training_moves_the_moments() -> None:
    data = complete(31)
    model = measured(data)
    before = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("ridge.")}
    config = TrainConfig(batch_size=8, weight_decay=1.0)
    record = train_epochs(model, data, config, first_epoch=0, epochs=2, seed=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    support = module_support(CONFIG, record.exposure)
    assert all(n == 0 for module, n in support.items() if module.startswith("ridge/"))


def test_support_of_a_block_is_the_visits_that_have_both_modalities() -> None:
    data = small_visits(CONFIG, 43, seed=3)
    support = module_support(CONFIG, set_means(make_model(CONFIG, 0), data).exposure)
    both = int((data.observed[:, 0] & data.observed[:, 2]).sum())
    assert support["ridge/volume0/table0"] == both
    assert support["ridge/volume1"] == int(data.observed[:, 1].sum())
    assert support["ridge/all-visits"] == 43 and support["trunk"] == 0


def test_a_federation_that_would_leave_the_ridge_unset_is_refused() -> None:
    with pytest.raises(ValidationError, match="centring_round"):
        RoundPlan(model=CONFIG, federation=FederationConfig(centring_round=False))


def test_unimodal_heads_are_refused_under_differential_privacy() -> None:
    private = FederationConfig(centring_round=False, evaluate_every=0, privacy=PrivacyConfig(noise_multiplier=1.0))
    with pytest.raises(ValidationError, match="unimodal_heads"):
        RoundPlan(model=small_config(unimodal_heads=True), federation=private)


def test_declared_directions_are_shrunk_as_they_are_scaled_by_the_configuration() -> None:
    """Against the normal equations; the score's slope is shrunk with the rest."""
    ridge_config = RidgeConfig(cells=(1, 3, 2), penalty=0.3, share=1.0, directions="declared")
    config = small_config(n_volumes=2, n_tables=1, ridge=ridge_config, baseline_scale_points=4.0)
    train, test = complete(37, config), complete(11, config, seed=1)
    ridge = ridge_of(measured(train, config))

    def columns(data: VisitData) -> Tensor:
        inputs = data.batch(everything(data)).inputs
        return torch.cat(
            [data.baseline[:, None].double() / 4, *(ridge.features(n, inputs[n]) for n in config.names)], dim=1
        )

    x, y = columns(train), train.target.double()
    centre = x.mean(0)
    covariance = (x - centre).T @ (x - centre) / len(x)
    slopes = torch.linalg.solve(
        covariance + 0.3 * torch.eye(len(covariance)).double(), (x - centre).T @ (y - y.mean()) / len(x)
    )
    expected = (columns(test) - centre) @ slopes + y.mean()
    assert torch.allclose(predicted(ridge, test.batch(everything(test))).double(), expected, atol=1e-4)
