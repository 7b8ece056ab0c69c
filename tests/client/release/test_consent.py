"""What the person who decides about a study is shown."""

from __future__ import annotations

from pathlib import Path

from permmoe.config import EncoderWeights, RidgeConfig, Score
from permmoe.data.outcome_columns import OutcomeColumns
from permmoe.federated.plan import RoundPlan
from permmoe_client.release.consent import changed_settings, study_in_words
from permmoe_client.site import SiteConfig
from tests.support.moments_study import moments_plan
from tests.support.noised_errors import noised_plan
from tests.support.plan_leaves import leaves
from tests.support.scanned_federation import scanned_plan
from tests.support.tiny_federation import tiny_plan

PLAN = tiny_plan(min_cell_count=7)
SITE = SiteConfig.model_validate({"name": "north", "manifest": "visits.csv", "cache": "cache"})


def said(plan: RoundPlan) -> str:
    return "\n".join(line for section in study_in_words(plan, SITE) for line in (section.heading, *section.sentences))


def test_every_setting_stands_in_the_words() -> None:
    text = said(PLAN)
    for path in leaves(PLAN.model_dump(mode="json")):
        name = next(key for key in reversed(path) if isinstance(key, str))
        assert name in text, path
    assert PLAN.digest() in text and "7 subjects or more" in text and "NO differential privacy" in text


def test_words_say_how_many_questions_about_patients_a_study_may_ask() -> None:
    assert "3 training(s) and 4 evaluation(s), each once" in said(PLAN)
    assert "12 training(s) and 3 evaluation(s)" in said(tiny_plan(rounds=12, evaluate_every=5))
    assert "3 training(s) and 0 evaluation(s)" in said(tiny_plan(evaluate_every=0))
    assert "What fewer than 7 subjects trained here does not leave." in said(PLAN)


def test_words_of_a_secure_study_say_by_how_many_sites_its_sums_may_differ() -> None:
    assert "of which 2 or more, or none, change" in said(tiny_plan(secure=True))
    assert "how many hold it only the sites learn" in said(tiny_plan(secure=True))
    assert "whose numbers then follow by subtraction" in said(tiny_plan(secure=True, min_cohort_difference=1))
    assert "min_cohort_difference" not in said(tiny_plan())


def test_words_say_what_leaves_so_that_predictions_have_intervals() -> None:
    assert "which size" not in said(PLAN)
    by_combination = said(tiny_plan(calibrate=True, min_cell_count=7))
    assert "no size with fewer than 7 of them" in by_combination and "as ill" not in by_combination
    by_severity = said(tiny_plan(calibrate=True, calibrate_severity=True, min_cell_count=7))
    assert "by severity at the visit, of groups of 7 subjects or more who are as ill" in by_severity


def test_words_of_a_study_with_a_ridge_say_that_covariances_leave() -> None:
    assert "covariances" not in said(tiny_plan(centring_round=True))
    plan = tiny_plan(centring_round=True)
    with_ridge = plan.model_copy(update={"model": plan.model.model_copy(update={"ridge": RidgeConfig()})})
    assert "covariances" in said(with_ridge) and "5 × 6 × 5" in said(with_ridge)


def test_words_of_a_study_that_pretrains_name_the_patients_without_an_outcome() -> None:
    assert "WITHOUT AN OUTCOME" not in said(PLAN)
    text = said(scanned_plan(min_cell_count=7))
    assert "2 of the rounds learn no outcome" in text and "ALL PATIENTS WITHOUT AN OUTCOME" in text
    assert "fewer than 7 patients" in text and "5 training(s) and 4 evaluation(s)" in text


def test_words_of_a_study_with_a_file_of_encoders_name_it_its_licence_and_what_is_missing_here() -> None:
    plan = scanned_plan(pretraining_rounds=0)
    weights = EncoderWeights(file="brains.safetensors", sha256="ab" * 32, licence="CC-BY-4.0", source="a cohort")
    encoder = plan.model.encoder.model_copy(update={"weights": weights})
    named = plan.model_copy(update={"model": plan.model.model_copy(update={"encoder": encoder})})
    text = said(named).split("All settings")[0]
    assert "the file brains.safetensors" in text and f"SHA-256 {'ab' * 32}, licence CC-BY-4.0, from a cohort" in text
    assert "'weights' in site.yaml" in text and "the rounds train them on" in text
    frozen = named.model_copy(update={"train": named.train.model_copy(update={"frozen_encoders": True})})
    assert "no message holds them" in said(frozen) and "safetensors" not in said(plan)
    has_folder = SITE.model_copy(update={"weights": Path("weights")})
    assert not any("'weights' in site.yaml" in s for part in study_in_words(named, has_folder) for s in part.sentences)


def test_words_of_moments_with_noise_say_what_it_costs_and_against_whom_it_holds() -> None:
    own = said(moments_plan(target_epsilon=8.0)).split("All settings")[0]
    shared = said(moments_plan(is_shared=True, target_epsilon=8.0)).split("All settings")[0]
    assert "ε = 7.9" in own and "against everybody outside this site" in own and "share" not in own
    assert "ε = 7.9" in shared and "with up to 1 of the sites" in shared and "no fewer than 4 sites" in shared
    assert "the shares of 3 honest ones" in shared and "its own share alone would be left: ε = 1" in shared
    for text in (own, shared):
        assert "products of two of 21 numbers" in text and "another study is another draw" in text
        assert "pass(es)" not in text and "covariances" not in text and "gradient" not in text


def private_words(**privacy: object) -> str:
    plan = tiny_plan(evaluate_every=0, privacy={"target_epsilon": 8.0, **privacy})
    return said(plan).split("All settings")[0]


def test_words_of_gradients_with_noise_say_how_much_of_a_patient_goes_into_a_step_and_what_it_trains() -> None:
    whole = private_words(max_gradient_norm=1.5, patients_per_step=40)
    assert "gradient is shortened to a length of 1.5, and noise is added" in whole and "at most ε = 8" in whole
    assert "about 40 of them" in whole and "visits at a time" not in whole
    assert "up to 22 parts" in whole and "alone. The other" not in whole
    assert "neither their loss nor times nor modalities" in whole and "sum of their training loss" not in whole
    few = private_words(max_gradient_norm=1.5, trains=["head", "router"], module_bounds={})
    assert "up to 4 parts of the model (3 router, head)" in few
    assert "kinds head, router alone. The other 18 of 22 stay" in few and "no message holds them" in few
    assert "in each of 4 parts by itself, to bounds that make it 1.5 long at most as a whole" in few
    assert "noise of 2 times that length" in said(
        tiny_plan(evaluate_every=0, privacy={"noise_multiplier": 2.0, "module_bounds": {}})
    )


def test_words_of_evaluations_with_noise_say_what_is_counted_and_that_the_study_costs_no_more() -> None:
    own, shared = (said(noised_plan(is_shared=s)).split("All settings")[0] for s in (False, True))
    for text in (own, shared):
        assert "12 sizes of 7 combinations" in text and "30% of the privacy" in text and "1 training(s) and 2" in text
        assert "the intervals of the model's predictions" in text and "No number is held back" in text
        assert "four sums of errors" not in text and "No evaluation" not in text
    assert "ε = 7.9" in own and "its share of the noise" not in own and "its share of the noise" in shared
    values = noised_plan().model_dump()
    del values["federation"]["privacy"]["moments"]
    values["federation"] |= {"centring_round": False, "rounds": 9, "evaluate_every": 3}
    values["model"]["ridge"] = None
    text = said(RoundPlan.model_validate(values)).split("All settings")[0]
    assert "Every 3 round(s), of the validation patients" in text and "at most ε = 8" in text


def test_a_coordinators_words_cannot_pass_for_ours() -> None:
    hostile = "good\nWhat protects it\n  everything \x1b[31m[bold]red[/bold] \u202eevil"
    plan = PLAN.model_copy(update={"purpose": hostile, "name": hostile[:100]})
    sections = study_in_words(plan, SITE)
    assert [s.heading for s in sections].count("What protects it") == 1
    shown = [line for s in sections for line in s.sentences]
    assert not any("\x1b" in line or "\n" in line or "\u202e" in line for line in shown)
    assert any("[bold]red" in line for line in shown)


def predicted(site: SiteConfig = SITE, **declared: object) -> str:
    plan = PLAN.model_copy(update=declared)
    [section] = [section for section in study_in_words(plan, site) if section.heading == "What it predicts"]
    return " ".join(section.sentences)


def test_an_outcome_that_the_study_declares_is_described() -> None:
    words = predicted(outcome="Conversion to dementia", horizon_months=36.0)
    assert words.startswith("Conversion to dementia, 36 months after the visit, as the study file declares it.")
    assert "horizon of your own table" in predicted(outcome="Change in CDR-SB")
    assert "18 months" in predicted(horizon_months=18.0)


def test_a_study_that_declares_no_outcome_is_described_by_the_sites_own_table() -> None:
    words = predicted()
    assert "names neither an outcome nor a horizon" in words
    assert "delta_cdrsb" in words and "over horizon_months" in words
    assert "two years" not in words and "24" not in words


def test_a_site_with_tables_of_visits_is_told_the_rule_of_its_own_settings() -> None:
    folders = {"tables": "t", "score": "MOCA.TOTAL", "target": {"horizon_months": 18, "window_months": 4}}
    values = {"name": "north", "folders": folders, "outcome": {"name": "MoCA"}, "cache": "cache"}
    words = predicted(SiteConfig.model_validate(values))
    assert "the change in MoCA in points, from MOCA.TOTAL, over 18 ± 4 months (folders.target)" in words
    assert "delta_cdrsb" not in words and "horizon_months" not in words


def test_a_site_whose_rule_has_another_horizon_than_the_study_is_told_that_it_cannot_take_part() -> None:
    folders = {"tables": "t", "target": {"horizon_months": 18}}
    site = SiteConfig.model_validate({"name": "north", "folders": folders, "cache": "cache"})
    refused = "This site cannot take part as it is set up: the study predicts over 24 months, and outcomes here are 18"
    assert refused in predicted(site, horizon_months=24.0)
    assert "cannot take part" not in predicted(site, horizon_months=18.0) + predicted(site)
    assert "Outcomes of another horizon than 24 months do not train" in predicted(horizon_months=24.0)
    assert "another horizon" not in predicted()


def test_an_outcome_is_the_coordinators_word_and_stays_on_its_line() -> None:
    assert "\n" not in predicted(outcome="change\nWhat protects it\n everything")


def test_another_outcome_or_horizon_is_another_study_and_none_leaves_the_digest_as_it_was() -> None:
    assert not {"outcome", "horizon_months"} & PLAN.model_dump(mode="json").keys()
    silent = RoundPlan.model_validate({**PLAN.model_dump(), "outcome": "", "horizon_months": None})
    assert silent.digest() == PLAN.digest()
    other = PLAN.model_copy(update={"horizon_months": 36.0})
    assert other.digest() != PLAN.digest()
    assert changed_settings(PLAN, other) == ("horizon_months: absent -> 36.0",)


def test_a_study_of_another_score_is_described_with_the_columns_that_this_site_has_it_in() -> None:
    score = Score(name="MMSE", lowest=0, highest=30)
    model = PLAN.model.model_copy(update={"score": score, "outcome_range": (-30, 30)})
    own = predicted(with_outcome(name="MMSE", baseline="mmse_0", follow_up="mmse_24"), model=model)
    assert "The model predicts the change in MMSE, in points." in own
    assert "mmse_24 − mmse_0, the change in MMSE in points" in own and "baseline MMSE" in own
    assert "cannot take part" not in own and "CDR-SB" not in own
    refused = "This site cannot take part as it is set up: the table holds CDR-SB"
    assert refused in predicted(model=model)


def with_outcome(**outcome: object) -> SiteConfig:
    return SITE.model_copy(update={"outcome": OutcomeColumns.model_validate(outcome)})
