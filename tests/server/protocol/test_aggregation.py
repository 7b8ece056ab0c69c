"""Averaging by module: the conformance suite of the federation, against a slow and obvious reference."""

from __future__ import annotations

import random
import weakref
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from permmoe.federated import fixed_point
from permmoe.federated.aggregation_rules import (
    MODALITY_FEDAVG,
    RULES,
    UNIFORM_MEAN,
    AggregationRule,
    ModuleTotal,
)
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.fixed_point import (
    LARGEST,
    QUICK,
    FixedPointOverflowError,
    Term,
    add_to,
    reach_of,
    to_fixed_point,
)
from permmoe.federated.update import ModuleUpdate
from permmoe_server.protocol.aggregation import (
    AT_ONCE,
    ONE,
    RunningSum,
    fold,
    mean_changes,
)
from permmoe_server.protocol.optimisers import server_step

SIZES = {"encoder/t1": 3, "encoder/tau": 5, "trunk": 7}
Site = tuple[dict[str, ModuleUpdate], float]


def average(sites: list[Site], rule: AggregationRule = MODALITY_FEDAVG, parameters: dict | None = None) -> dict:
    running = RunningSum()
    for updates, visits in sites:
        running = fold(running, updates, visits, rule)
    parameters = parameters or {name: torch.zeros(size) for name, size in SIZES.items()}
    return dict(mean_changes(running, parameters, rule))


def reference(sites: list[Site]) -> dict[str, list[Fraction]]:
    """The same in exact fractions, element by element."""
    means = {}
    for name, size in SIZES.items():
        holders = [updates[name] for updates, _ in sites if name in updates]
        if holders:
            support = sum(Fraction(u.support) for u in holders)
            means[name] = [sum(Fraction(float(u.weighted_delta[i])) for u in holders) / support for i in range(size)]
    return means


def update(size: int, support: float, change: float) -> ModuleUpdate:
    return ModuleUpdate.of(torch.zeros(size), torch.full((size,), change), float(support))


@st.composite
def sites(draw: st.DrawFn, low: float = 0.01) -> list[Site]:
    """Up to seven sites, each with some of the modules."""
    found = []
    for _ in range(draw(st.integers(1, 7))):
        visits = draw(st.floats(1, 500, width=32))
        updates = {
            name: ModuleUpdate(
                torch.tensor(draw(st.lists(st.floats(-50, 50, width=32), min_size=size, max_size=size))),
                draw(st.floats(low, 1)) * visits,
            )
            for name, size in SIZES.items()
            if draw(st.booleans())
        }
        found.append((updates, visits))
    return found


def test_a_site_without_tau_has_no_say_in_the_tau_encoder() -> None:
    a = ({"encoder/t1": update(3, 10, 2.0), "encoder/tau": update(5, 10, 2.0)}, 10.0)
    b = ({"encoder/t1": update(3, 30, 0.0)}, 30.0)
    for order in ([a, b], [b, a]):
        means = average(order)
        assert means["encoder/tau"].tolist() == [2.0] * 5
        assert means["encoder/t1"].tolist() == [0.5] * 3


def test_the_usual_mistakes_are_what_they_are_said_to_be() -> None:
    a = ({"encoder/t1": update(3, 10, 2.0), "encoder/tau": update(5, 4, 2.0)}, 10.0)
    b = ({"encoder/t1": update(3, 30, 0.0)}, 30.0)
    parameters = {name: torch.full((size,), 8.0) for name, size in SIZES.items()}
    tau = {name: average([a, b], rule, parameters)["encoder/tau"].tolist() for name, rule in RULES.items()}
    assert tau["modality_fedavg"] == [2.0] * 5
    assert tau["zero_fill"] == [10 * 2.0 / 40] * 5
    # θ becomes (10 · (8 + 2) + 30 · 0) / 40 = 2.5: shrunk by 5.5.
    assert tau["naive_union"] == [2.5 - 8.0] * 5
    assert tau["uniform_mean"] == [2.0] * 5
    assert average([a, b], UNIFORM_MEAN, parameters)["encoder/t1"].tolist() == [1.0] * 3


def root_of_support() -> AggregationRule:
    """A rule that is written here, as anybody would write one."""

    def mean(total: ModuleTotal, parameters: torch.Tensor) -> torch.Tensor:
        return total.change.double() / total.weight

    return AggregationRule(
        "root", "The square root of the support.", lambda module, support, visits: support**0.5, mean
    )


def test_a_rule_is_one_object_that_the_sum_and_the_configuration_take(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = root_of_support()
    a, b = ({"trunk": update(7, 4, 3.0)}, 9.0), ({"trunk": update(7, 16, 0.0)}, 16.0)
    assert average([a, b], rule)["trunk"].tolist() == pytest.approx([2 / (2 + 4) * 3.0] * 7)
    with pytest.raises(ValidationError, match="unknown rule 'root'"):
        FederationConfig(aggregation="root")
    monkeypatch.setitem(RULES, rule.name, rule)
    assert FederationConfig(aggregation="root").aggregation_rule is rule


def test_a_mistyped_rule_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'zero_fill'"):
        FederationConfig(aggregation="zero_fil")
    assert set(FederationConfig.model_json_schema()["properties"]["aggregation"]["enum"]) == set(RULES)


@given(sites())
def test_the_average_is_that_of_exact_fractions(found: list[Site]) -> None:
    means, expected = average(found), reference(found)
    assert means.keys() == expected.keys()
    for name, values in expected.items():
        support = sum(u[name].support for u, _ in found if name in u)
        resolution = len(found) * 50 / ONE / min(support, 1)
        assert means[name].tolist() == pytest.approx([float(v) for v in values], rel=1e-6, abs=resolution)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@given(found=sites(), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_order_of_replies_changes_no_bit(rule: AggregationRule, found: list[Site], seed: int) -> None:
    shuffled = found.copy()
    random.Random(seed).shuffle(shuffled)
    once, again = average(found, rule), average(shuffled, rule)
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_plain_float32_sums_would_depend_on_the_order() -> None:
    values = [1e8, 1.0, -1e8]
    sums = {sum(torch.tensor(order)).item() for order in (values, [1e8, -1e8, 1.0])}
    assert len(sums) == 2
    found = [({"trunk": ModuleUpdate(torch.full((7,), v), 1.0)}, 1.0) for v in values]
    assert average(found)["trunk"].tolist() == pytest.approx([1 / 3] * 7)


@given(sites(low=0.1), st.floats(0.5, 8))
def test_scaling_every_support_leaves_the_average(found: list[Site], factor: float) -> None:
    def scaled(u: ModuleUpdate) -> ModuleUpdate:
        return ModuleUpdate(u.weighted_delta * factor, u.support * factor)

    means = average(found)
    again = average([({name: scaled(u) for name, u in updates.items()}, visits) for updates, visits in found])
    assert all(torch.allclose(means[name], again[name], rtol=1e-5, atol=1e-6) for name in means)


@given(sites(), st.integers(-3, 3))
def test_the_average_is_linear_in_the_changes(found: list[Site], factor: int) -> None:
    times = [
        ({name: ModuleUpdate(u.weighted_delta * factor, u.support) for name, u in updates.items()}, visits)
        for updates, visits in found
    ]
    means, again = average(found), average(times)
    # Changes that cancel leave the rounding of the largest of them.
    largest = {
        name: max(float(updates[name].weighted_delta.abs().max()) for updates, _ in found if name in updates)
        / sum(updates[name].support for updates, _ in found if name in updates)
        for name in means
    }
    assert all(
        torch.allclose(factor * means[name], again[name], rtol=1e-5, atol=1e-6 * (1 + largest[name])) for name in means
    )


@given(sites())
def test_two_sites_with_the_same_update_average_to_it(found: list[Site]) -> None:
    once, doubled = average(found[:1]), average(found[:1] * 2)
    assert all(torch.equal(once[name], doubled[name]) for name in once)


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_module_that_nobody_trained_is_not_mentioned(rule: AggregationRule) -> None:
    assert set(average([({"trunk": update(7, 3, 1.0)}, 3.0)], rule)) == {"trunk"}
    assert average([], rule) == {}


def test_a_single_holder_decides_alone_whatever_its_support() -> None:
    for support in (0.001, 1.0, 3e5):
        means = average([({"encoder/tau": update(5, support, 0.125)}, 1.0), ({"trunk": update(7, 9, 1.0)}, 9.0)])
        assert means["encoder/tau"].tolist() == pytest.approx([0.125] * 5, rel=1e-5)


def test_a_joining_and_a_leaving_holder_count_in_their_rounds_only() -> None:
    stays, joins = ({"trunk": update(7, 10, 1.0)}, 10.0), ({"trunk": update(7, 30, 5.0)}, 30.0)
    rounds = [average(present)["trunk"][0].item() for present in ([stays], [stays, joins], [stays])]
    assert rounds == [1.0, 4.0, 1.0]


def test_an_overflowing_reply_is_an_error_and_leaves_the_sum_untouched() -> None:
    largest = 2.0**31 * (1 - 2**-20)
    running = fold(RunningSum(), {"trunk": ModuleUpdate(torch.full((7,), largest), 1.0)}, 1.0)
    kept = running.modules["trunk"].change.clone()
    too_much = {"encoder/t1": update(3, 1, 1.0), "trunk": ModuleUpdate(torch.full((7,), largest), 1.0)}
    with pytest.raises(FixedPointOverflowError):
        fold(running, too_much, 1.0)
    assert torch.equal(running.modules["trunk"].change, kept) and set(running.modules) == {"trunk"}


@pytest.mark.parametrize("value", [2.0**31, -(2.0**31), float("inf"), float("nan")])
def test_a_value_out_of_range_is_an_error(value: float) -> None:
    with pytest.raises(FixedPointOverflowError):
        to_fixed_point(torch.tensor([0.0, value]))


def test_fixed_point_rounds_to_the_nearest_and_knows_its_largest_magnitude() -> None:
    values = torch.tensor([1.0, -0.1, 2.0**-34, 3.0 * 2.0**-33, -7.25])
    fixed, reach = to_fixed_point(values, 0.3)
    expected = [round(Fraction(float(v)) * Fraction(0.3) * ONE) for v in values]
    assert fixed.tolist() == expected and reach == max(map(abs, expected))


def numbers(size: int) -> st.SearchStrategy[torch.Tensor]:
    """float32 around the resolution, half-way cases included, and of any magnitude that 64 bits can hold."""
    halves = st.integers(-(2**24), 2**24).map(lambda n: n * 2.0**-33)
    wide = st.floats(-(2.0**30), 2.0**30, width=32)
    return st.lists(halves | wide | st.floats(-1, 1, width=32), min_size=size, max_size=size).map(torch.tensor)


FACTORS = st.sampled_from([1.0, 0.3, 1 / 7, 1.0000001])


@given(total=st.lists(st.integers(-LARGEST, LARGEST), min_size=11, max_size=11), found=st.data())
def test_adding_chunk_by_chunk_is_adding_fixed_points_to_the_last_bit(total: list[int], found: st.DataObject) -> None:
    terms = found.draw(st.lists(st.tuples(numbers(11), FACTORS), max_size=2 * AT_ONCE + 1))
    found, expected = torch.tensor(total), torch.tensor(total)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_point, "CHUNK", 4)
        add_to(found, [Term(values, factor, reach_of(values, factor)) for values, factor in terms])
    for values, factor in terms:
        expected += to_fixed_point(values, factor)[0]
    assert found.tolist() == expected.tolist()


def test_numbers_around_the_end_of_the_quick_way_are_added_exactly() -> None:
    end = QUICK / ONE
    for value in (end * (1 - 2**-24), -end * (1 - 2**-24), end, -end, end * 1.5):
        total, values = torch.zeros(3, dtype=torch.int64), torch.full((3,), value)
        add_to(total, [Term(values, 1.0, reach_of(values)), Term(values, 0.75, reach_of(values, 0.75))])
        assert total.tolist() == [int(value * ONE) + int(value * 0.75 * ONE)] * 3


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@given(found=st.lists(sites(), min_size=1, max_size=4))
@settings(max_examples=30)
def test_replies_that_wait_for_each_other_are_all_in_the_sum(rule: AggregationRule, found: list[list[Site]]) -> None:
    """The reference adds one after the other, and looks for the largest number; changes are at most 16,500 long."""
    replies, running, trusting = [site for group in found for site in group], RunningSum(), RunningSum()
    expected: dict[str, torch.Tensor] = {}
    for updates, visits in replies:
        running = fold(running, updates, visits, rule)
        trusting = fold(trusting, updates, visits, rule, longest=16_500.0)
        for name, u in updates.items():
            change, _ = to_fixed_point(u.weighted_delta, rule.weight(name, u.support, visits) / u.support)
            expected[name] = expected[name] + change if name in expected else change
    for sums in (running, trusting):
        assert {name: module.change.tolist() for name, module in sums.modules.items()} == {
            name: change.tolist() for name, change in expected.items()
        }
        assert all(module.reach >= module.change.abs().max() for module in sums.modules.values())


def test_an_overflow_after_replies_that_wait_adds_nothing() -> None:
    once, again = RunningSum(), RunningSum()
    for _ in range(3):
        fold(once, {"trunk": update(7, 3, 0.1)}, 3.0)
        fold(again, {"trunk": update(7, 3, 0.1)}, 3.0)
    with pytest.raises(FixedPointOverflowError):
        fold(again, {"encoder/t1": update(3, 1, 1.0), "trunk": ModuleUpdate(torch.full((7,), 2.0**31), 1.0)}, 1.0)
    assert (again.sites, again.visits, set(again.modules)) == (once.sites, once.visits, {"trunk"})
    assert again.modules["trunk"].change.tolist() == once.modules["trunk"].change.tolist()
    assert again.modules["trunk"].weight == once.modules["trunk"].weight


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    running, kept = RunningSum(), list[weakref.ref[torch.Tensor]]()
    for _ in range(50):
        changed = update(7, 2, 1.0)
        kept.append(weakref.ref(changed.weighted_delta))
        running = fold(running, {"trunk": changed}, 2.0)
        del changed
        assert sum(reference() is not None for reference in kept) < AT_ONCE
    assert {name: module.change.numel() for name, module in running.modules.items()} == {"trunk": 7}
    assert running.sites == 50


def steps(optimiser: str, changes: list[list[float]], **more: float) -> list[list[float]]:
    config = FederationConfig(server_optimiser=optimiser, **more)
    parameters, moments, path = torch.zeros(3), {}, []
    for change in changes:
        parameters, moments = server_step(config, parameters, torch.tensor(change), moments)
        path.append(parameters.tolist())
    return path


CHANGES = [[1.0, -2.0, 0.5], [0.25, 1.0, 0.0], [-1.0, 3.0, 0.125]]


def test_fedavg_adds_the_mean_change() -> None:
    assert steps("fedavg", CHANGES)[-1] == [0.25, 2.0, 0.625]
    assert steps("fedavg", CHANGES, server_learning_rate=0.5)[-1] == [0.125, 1.0, 0.3125]


@pytest.mark.parametrize("optimiser", ["fedavgm", "fedadam"])
def test_moments_follow_the_papers_recurrences(optimiser: str) -> None:
    rate, beta, expected = 0.5, 0.75, [[], [], []]
    for i in range(3):
        theta = m = v = 0.0
        for change in (c[i] for c in CHANGES):
            if optimiser == "fedavgm":
                m = beta * m + change
                theta += rate * m
            else:
                m = beta * m + (1 - beta) * change
                v = 0.99 * v + 0.01 * change**2
                theta += rate * m / (v**0.5 + 1e-3)
            expected[i].append(theta)
    path = steps(optimiser, CHANGES, server_learning_rate=rate, server_momentum=beta)
    for i in range(3):
        assert [point[i] for point in path] == pytest.approx(expected[i], rel=1e-5)


@pytest.mark.parametrize("optimiser", ["fedavg", "fedavgm", "fedadam"])
def test_a_step_changes_neither_its_parameters_nor_its_moments_in_place(optimiser: str) -> None:
    config = FederationConfig(server_optimiser=optimiser)
    parameters, change = torch.ones(3), torch.tensor([1.0, 2.0, 3.0])
    _, moments = server_step(config, parameters, change, {})
    kept = {name: tensor.clone() for name, tensor in moments.items()}
    server_step(config, parameters, change, moments)
    assert parameters.tolist() == [1.0] * 3 and change.tolist() == [1.0, 2.0, 3.0]
    assert all(torch.equal(moments[name], kept[name]) for name in kept)
