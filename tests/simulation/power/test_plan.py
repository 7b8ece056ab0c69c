"""What a power study varies, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from permmoe.config import parse_config, read_config
from permmoe.errors import ConfigurationError
from permmoe_simulation.power.plan import FIRST_SEED, Point, PowerConfig, claimed_study, power_at_profile, study_at
from permmoe_simulation.power.run import studies_of
from permmoe_simulation.studies.study import StudyConfig, data_source

CONFIGS = Path(__file__).parents[3] / "configs"
KNOWN_TRUTH = read_config(CONFIGS / "studies" / "known-truth.yaml", StudyConfig)
SHIPPED = read_config(CONFIGS / "power" / "known-truth.yaml", PowerConfig)
CLAIM = {"method": "federated", "reference": "training-mean"}


def plan(**changes: Any) -> PowerConfig:
    values = {"name": "power", "description": "Planted.", "study": "x.yaml", "regimes": ["linear"], "claims": [CLAIM],
              "grid": [{"patients": [40], "sites": [2]}], **changes}  # fmt: skip
    return parse_config(values, PowerConfig, "power.yaml")


def test_points_are_those_of_all_blocks_each_once_and_in_order() -> None:
    blocks = [{"patients": [400, 100], "sites": [4]}, {"patients": [400], "sites": [8, 4]}]
    assert plan(grid=blocks).points == (Point(100, 4), Point(400, 4), Point(400, 8))


def test_a_whole_curve_is_run_before_the_next_cohort() -> None:
    power = plan(grid=[{"patients": [40, 50], "sites": [2]}], cohorts=2, first_seed=700)
    order = [(point.patients, seed) for point, seed, _ in studies_of(power, claimed_study(power, KNOWN_TRUTH))]
    assert order == [(40, 700), (50, 700), (40, 701), (50, 701)]


def test_a_cohort_s_study_differs_in_patients_sites_and_seed_and_keeps_what_a_regime_plants() -> None:
    power = plan(regimes=["routed", "tau-useless"])
    claimed = claimed_study(power, KNOWN_TRUTH)
    made = study_at(claimed, Point(70, 7), 503)
    assert list(made.methods) == ["federated", "training-mean"] and made.pairs == (("federated", "training-mean"),)
    assert made.train == KNOWN_TRUTH.train and made.federation == KNOWN_TRUTH.federation
    for regime in made.regimes:
        own, other = data_source(made, regime).planted, data_source(KNOWN_TRUTH, regime).planted
        assert own is not None and other is not None
        assert own == other.model_copy(update={"patients": 70, "sites": 7, "seed": 503})


def test_settings_lie_over_the_study() -> None:
    shares = {"t1": 0.05, "flair": 0.05, "amyloid": 0.05, "tau": 0.05}
    claimed = claimed_study(plan(settings={"data": {"planted": {"explained": shares}}}), KNOWN_TRUTH)
    planted = data_source(claimed, "linear").planted
    assert planted is not None and planted.explained == shares


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"seeds": [0, 1]}}, "nothing would be judged.*2 training seeds, fewer than 5; give `settings"),
        ({"claims": [{**CLAIM, "reference": "training-maen"}]}, "no method 'training-maen'; did you mean 'training-m"),
        ({"claims": [{**CLAIM, "combination": "t1+tao"}]}, r"no combination 't1\+tao'; did you mean 't1\+tau'"),
        ({"regimes": ["liner"]}, "no regime 'liner'; did you mean 'linear'"),
        ({"study_profile": "quik"}, "no profile 'quik'"),
        ({"settings": {"data": {"planted": None, "table": "diabetes"}}}, "nothing is planted in study known-truth"),
        ({"settings": {"data": {"planted": {"explained": {"t1": 0.6}}}}}, "leave some of it to noise"),
    ],
)
def test_what_could_say_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        claimed_study(plan(**changes), KNOWN_TRUTH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [{"patients": [400, 70], "sites": [4, 8]}]}, "8 sites need 80 patients, 10 each.* a point of 70"),
        ({"first_seed": FIRST_SEED - 1}, "first_seed"),
        ({"claims": []}, "claims"),
        ({"cohort": 3}, "unknown key 'cohort'; did you mean 'cohorts'"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(**changes)


def test_a_regime_with_patients_of_its_own_is_refused_since_no_curve_could_vary_them() -> None:
    values = KNOWN_TRUTH.model_dump()
    values["regimes"]["linear"]["data"] = {"planted": {"patients": 800}}
    claimed = claimed_study(plan(), parse_config(values, StudyConfig, "study"))
    with pytest.raises(ConfigurationError, match=r"regime linear .* of its own"):
        study_at(claimed, Point(40, 2), 500)


@pytest.mark.parametrize("profile", SHIPPED.profiles)
def test_every_shipped_profile_can_be_run_on_cohorts_that_no_study_reports(profile: str) -> None:
    power = power_at_profile(SHIPPED, profile)
    study = read_config(CONFIGS / "power" / power.study, StudyConfig)
    made = studies_of(power, claimed_study(power, study))
    assert len({one.name for _, _, one in made}) == len(made) == len(power.points) * power.cohorts
    assert min(seed for _, seed, _ in made) >= FIRST_SEED


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no profile 'ful'; did you mean 'full'"):
        power_at_profile(SHIPPED, "ful")
