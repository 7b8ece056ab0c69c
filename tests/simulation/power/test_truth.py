"""What the planted design says of a claim: by what a method can know, never by what was found."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe_simulation.power.plan import PowerConfig, claimed_study
from permmoe_simulation.power.truth import Truth, truth_of
from permmoe_simulation.power.verdicts import truths
from permmoe_simulation.studies.planted import PlantedConfig
from permmoe_simulation.studies.study import Claim, Method
from tests.simulation.power.test_plan import KNOWN_TRUTH

METHODS = KNOWN_TRUTH.methods
NAMES = ("t1", "tau")


def truth(method: str, reference: str, combination: str = "mean", **planted: object) -> Truth:
    config = PlantedConfig.model_validate({"explained": {"t1": 0.3, "tau": 0.2}} | planted)
    claim = Claim(method=method, reference=reference, combination=combination)
    return truth_of(claim, METHODS[method], METHODS[reference], config, NAMES)


def test_what_explains_the_outcome_is_to_be_found_by_so_many_points() -> None:
    found = truth("federated", "training-mean")
    assert found.expected == "lower"
    assert found.difference == pytest.approx(2 * np.mean([np.sqrt(1 - s) - 1 for s in (0.3, 0.2, 0.5)]))
    assert truth("federated", "training-mean", "tau").difference == pytest.approx(2 * (np.sqrt(0.8) - 1))


def test_what_says_nothing_cannot_lower_the_error_of_the_mean() -> None:
    useless = {"t1": 0.3, "tau": 0.0}
    assert truth("federated", "training-mean", "tau", explained=useless).expected == "not lower"
    assert truth("federated", "training-mean", explained=useless).expected == "lower"
    assert truth("kernel-ridge", "training-mean", routed=1.0).expected == "not lower"


@pytest.mark.parametrize(("routed", "expected"), [(0.0, "not known"), (0.5, "lower"), (1.0, "lower")])
def test_more_than_a_line_is_to_be_found_where_something_is_routed(routed: float, expected: str) -> None:
    assert truth("federated", "kernel-ridge", routed=routed).expected == expected


def test_exchanging_the_two_turns_the_side_that_is_planted() -> None:
    one, other = truth("federated", "kernel-ridge", routed=0.5), truth("kernel-ridge", "federated", routed=0.5)
    assert (one.expected, other.expected) == ("lower", "higher") and one.difference == -other.difference < 0
    assert truth("training-mean", "federated").expected == "higher"


@pytest.mark.parametrize("reference", ["local", "one-expert", "flexmoe", "without-tau", "personal"])
@pytest.mark.parametrize("routed", [0.0, 0.8])
def test_between_models_that_can_reach_the_same_the_design_does_not_choose(reference: str, routed: float) -> None:
    found = truth("federated", reference, routed=routed)
    assert found.expected == "not known" and found.difference == pytest.approx(0)


def test_whoever_knows_the_shifted_hospital_can_err_less_than_who_has_to_guess_it() -> None:
    shifted = {"outcome_shift": 2.0, "scanner_shift": 1.0}
    assert truth("personal", "federated", **shifted).expected == "lower"
    assert truth("federated", "local", **shifted).expected == "higher"
    assert truth("federated", "training-mean", **shifted).expected == "lower"
    assert truth("federated", "kernel-ridge", **shifted).expected == "not known"
    assert truth("federated", "kernel-ridge", routed=0.5, **shifted).expected == "lower"


def test_numbers_that_explain_nothing_tell_the_hospital_only_where_both_are_shifted() -> None:
    nothing: dict[str, object] = {"explained": {"t1": 0.0, "tau": 0.0}}
    assert truth("federated", "training-mean", **nothing, outcome_shift=2.0).expected == "not lower"
    assert truth("federated", "training-mean", **nothing, scanner_shift=2.0).expected == "not lower"
    assert truth("local", "training-mean", **nothing, scanner_shift=2.0).expected == "not lower"
    assert truth("federated", "training-mean", **nothing, outcome_shift=2.0, scanner_shift=1.0).expected == "lower"


def test_of_a_reference_whose_reach_is_not_written_down_nothing_is_known() -> None:
    other = Method(kind="reference", baseline="clinical_null", label="clinical null")
    claim = Claim(method="federated", reference="other")
    config = PlantedConfig(explained={"t1": 0.3})
    assert truth_of(claim, METHODS["federated"], other, config, NAMES).expected == "not known"


def test_a_method_does_not_differ_from_its_second_training_in_any_regime() -> None:
    values = {"name": "p", "description": "", "study": "x", "grid": [{"patients": [40], "sites": [2]}],
              "claims": [{"method": "federated", "reference": "local"}]}  # fmt: skip
    study = claimed_study(PowerConfig.model_validate(values), KNOWN_TRUTH)
    found = truths(study)
    for regime in study.regimes:
        assert found[regime, "federated", "federated+again", "mean"].expected == "no difference"
    assert found["site-shifted", "federated", "local", "mean"].expected == "higher"
