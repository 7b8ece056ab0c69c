"""The figures of a training: what is declared of each decides what is sent, stated, added up, logged and rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from permmoe.federated.training_figures import FIGURES, TrainingFigures, figure_rules

HONEST = TrainingFigures(visits=23.0, loss_sum=-11.5, train_seconds=1.25, overhead_seconds=0.0)


def test_figures_travel_in_the_order_of_their_declaration() -> None:
    assert list(HONEST.by_name().items()) == [
        ("visits", 23.0), ("loss_sum", -11.5), ("train_seconds", 1.25), ("overhead_seconds", 0.0),
    ]  # fmt: skip


def test_the_ledger_the_secure_sum_and_the_log_of_rounds_see_what_is_declared_for_them() -> None:
    assert HONEST.for_ledger() == {"visits": 23.0}
    assert HONEST.for_secure_sum() == {"visits": 23.0, "loss_sum": -11.5}
    assert list(HONEST.for_round_log()) == ["visits", "train_seconds", "overhead_seconds"]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_figure_may_be_nan_or_infinite(name: str, value: float) -> None:
    broken = replace(HONEST, **{name: value})
    assert HONEST.are_finite() and not broken.are_finite()
    assert broken.broken_rule(max_support=100.0) == "not_finite"


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({}, None),
        ({"visits": 100.0}, None),
        ({"visits": 100.5}, "visits"),
        ({"visits": 0.0}, "visits"),
        ({"train_seconds": -0.25}, "not_finite"),
        ({"overhead_seconds": -0.25}, "not_finite"),
        ({"visits": -1.0, "overhead_seconds": -0.25}, "not_finite"),
        ({"loss_sum": -1e9}, None),
    ],
)
def test_a_figure_out_of_its_range_breaks_its_rule(changed: dict[str, float], rule: str | None) -> None:
    assert replace(HONEST, **changed).broken_rule(max_support=100.0) == rule


def test_every_rule_about_one_figure_has_a_sentence() -> None:
    rules = figure_rules()
    assert {f"missing_{name}" for name in FIGURES} | {"visits"} == set(rules)
    assert all(sentence.endswith(".") for sentence in rules.values())
