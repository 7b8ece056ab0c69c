"""The bounds of each module's part of a gradient: they cover what is trained, and add up to what the noise is for."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import Any

import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant

from permmoe.config import ModelConfig, PrivacyConfig
from permmoe.federated.accounting import Spent, epsilon
from permmoe.federated.gradient_bounds import gradient_bounds, trained_parameters
from permmoe.federated.modules import ModuleLayout, kind_of
from permmoe.federated.plan import RoundPlan
from permmoe.federated.trained_modules import fixed_modules, trained_modules
from permmoe.training.clipping import GradientBound
from permmoe.training.seeds import make_model
from tests.support.model_batches import small_config
from tests.support.tiny_federation import MODEL, tiny_plan


def private_plan(model: ModelConfig = MODEL, **privacy: Any) -> RoundPlan:
    values = {"noise_multiplier": 1.0, "max_gradient_norm": 3.0, **privacy}
    plan = tiny_plan(evaluate_every=0, privacy=values)
    return RoundPlan.model_validate({**plan.model_dump(), "model": model.model_dump()})


def bounds_of(model: ModelConfig = MODEL, **privacy: Any) -> tuple[GradientBound, ...]:
    plan, network = private_plan(model, **privacy), make_model(model, 1)
    layout = ModuleLayout.of(network)
    modules = trained_modules(plan, 1, layout.modules)
    assert plan.federation.privacy
    return gradient_bounds(plan.federation.privacy, layout, modules, trained_parameters(network, layout, modules))


@pytest.mark.parametrize("shares", [{}, {"head": 4.0}, {"bank": 0.1, "expert": 2.5, "trunk": 0.7}])
@pytest.mark.parametrize("trains", [(), ("head",), ("router", "head"), ("expert", "bank", "trunk")])
def test_all_bounds_together_are_the_length_that_the_noise_is_made_for(
    shares: dict[str, float], trains: tuple[str, ...]
) -> None:
    bounds = bounds_of(module_bounds=shares, trains=trains)
    assert sqrt(sum(bound.norm**2 for bound in bounds)) == pytest.approx(3.0)


def test_equal_bounds_are_the_length_over_the_root_of_the_number_of_modules_that_are_trained() -> None:
    layout = ModuleLayout.of(make_model(MODEL, 1))
    for trains in ((), ("head",), ("router", "head")):
        n_trained = sum(not trains or kind_of(module) in trains for module in layout.modules)
        bounds = bounds_of(module_bounds={}, trains=trains)
        assert [bound.norm for bound in bounds] == pytest.approx([3.0 / sqrt(n_trained)] * n_trained)


def test_bounds_are_in_the_declared_proportions() -> None:
    routers, [head] = (
        [bound for bound in bounds_of(module_bounds={"head": 5.0}, trains=["router", "head"]) if start(bound) == kind]
        for kind in ("routers", "head")
    )
    assert [head.norm / router.norm for router in routers] == pytest.approx([5.0] * 3)


def start(bound: GradientBound) -> str:
    return bound.pieces[0][0].split(".")[0]


@pytest.mark.parametrize("trains", [(), ("router", "bank")])
def test_every_element_that_is_trained_has_one_bound_and_no_other_has_any(trains: tuple[str, ...]) -> None:
    model = make_model(small_config(), 1)
    bounds = bounds_of(small_config(), module_bounds={}, trains=trains)
    pieces = Counter(piece for bound in bounds for piece in bound.pieces)
    assert set(pieces.values()) == {1}
    covered = sum(
        parameter.numel() if (name, None) in pieces else sum(parameter[i].numel() for n, i in pieces if n == name)
        for name, parameter in model.named_parameters()
        if any(n == name for n, _ in pieces)
    )
    kinds = {"routers": "router", "missing_bank": "bank"}
    trained = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (not trains or kinds.get(name.split(".")[0]) in trains)
    ]
    assert covered == sum(trained)


def test_what_follows_no_gradient_has_no_bound_and_is_not_counted() -> None:
    """Mean inputs of an encoder of volumes, and a bank of zeros."""
    bounds = bounds_of(small_config(bank="zeros"), module_bounds={})
    names = {name for bound in bounds for name, _ in bound.pieces}
    assert not any("centre" in name or name.startswith("missing_bank") for name in names)
    layout = ModuleLayout.of(make_model(small_config(bank="zeros"), 1))
    assert len(bounds) == sum(kind_of(module) != "bank" for module in layout.modules)


def test_a_gradient_that_is_clipped_as_a_whole_has_no_bounds_of_parts() -> None:
    assert bounds_of(trains=["head"]) == ()


@pytest.mark.parametrize("shares", [{}, {"head": 4.0, "bank": 0.5}])
def test_the_modules_sums_cost_together_what_the_account_is_charged_by_an_independent_accountant(
    shares: dict[str, float],
) -> None:
    """Each module's sum is a Gaussian mechanism of its own, whose noise is the whole's and whose sensitivity is its
    bound."""
    sigma, steps = 2.0, 7
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for bound in bounds_of(module_bounds=shares, trains=["router", "expert", "head"]):
        accountant.compose(GaussianDpEvent(sigma * 3.0 / bound.norm), steps)
    assert epsilon([Spent(sigma, 1.0, steps)], 1e-5) == pytest.approx(float(accountant.get_epsilon(1e-5)), rel=0.01)


def test_what_is_trained_and_what_stays_are_all_modules_and_no_module_is_both() -> None:
    layout = ModuleLayout.of(make_model(MODEL, 1))
    plan = private_plan(trains=["head", "router"])
    trained, fixed = trained_modules(plan, 1, layout.modules), fixed_modules(plan, layout.modules)
    assert set(trained) == {"head", "router/clinical", "router/fluid", "router/gene"}
    assert set(trained) | fixed == set(layout.modules) and not set(trained) & fixed
    assert not fixed_modules(private_plan(), layout.modules)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trains": ["heads"]}, "'router', 'expert', 'bank', 'trunk' or 'head'"),
        ({"trains": ["head", "head"]}, "names a kind twice"),
        ({"module_bounds": {"heads": 2.0}}, "head"),
        ({"moments": {}, "trains": ["head"]}, "moments have no gradient"),
        ({"moments": {}, "module_bounds": {}}, "moments have no gradient"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PrivacyConfig.model_validate({"noise_multiplier": 1.0, **changes})


def test_a_bank_that_has_nothing_to_learn_is_not_trained_alone() -> None:
    with pytest.raises(ValueError, match="no tokens to train"):
        private_plan(small_config(bank="none"), trains=["bank"])


def test_digests_of_studies_without_these_settings_are_as_before() -> None:
    dumped = PrivacyConfig(noise_multiplier=1.0).model_dump()
    assert not {"trains", "module_bounds"} & set(dumped)
    assert "optimiser" not in tiny_plan().train.model_dump()
