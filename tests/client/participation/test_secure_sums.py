"""Which secure sums a site takes part in: none that, by subtraction from others, would tell about fewer sites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from permmoe.federated.audit import Entry
from permmoe.federated.plan import RoundPlan
from permmoe_client.app import SITES
from permmoe_client.connection.identity import open_ledger
from permmoe_client.site import read_site
from permmoe_server.protocol.round_records import Evaluation
from tests.support.lying_coordinator import LyingCoordinator
from tests.support.secure_federation import found
from tests.support.tiny_federation import tiny_plan

ALL = ("north", "south", "west", "east", "mid")
WITHOUT_WEST = ("north", "south", "east", "mid")
WITHOUT_TWO = ("north", "south", "east")
NUDGE = 1e-6
LAST = 9


def secure_plan(**federation: Any) -> RoundPlan:
    return tiny_plan(secure=True, rounds=LAST, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **federation)


def coordinator(folder: Path, plan: RoundPlan | None = None, **release: Any) -> LyingCoordinator:
    return LyingCoordinator.of(found(folder, plan or secure_plan(), ALL, release={"min_cell_count": 1, **release}))


def ledger_of(liar: LyingCoordinator, site: str) -> list[Entry]:
    ledger = open_ledger(read_site(liar.federation.deployment.sites[site]))
    assert ledger
    return list(ledger.entries())


def is_refused(evaluation: Evaluation, rule: str = "SecureSumRefused") -> bool:
    """Whether nothing was summed, and every site that was asked says why."""
    return not evaluation.sums and set(evaluation.rejected.values()) == {rule}


# What a coordinator would subtract: its own sums with and without one site.


def test_attack_one_model_evaluated_with_and_without_a_site(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, number=1).sums["clinical"].n > 0
    assert is_refused(liar.evaluate(WITHOUT_WEST, number=2), "AlreadyAnswered")


def test_attack_two_models_that_predict_the_same_evaluated_with_and_without_a_site(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, number=1).sums
    assert is_refused(liar.evaluate(WITHOUT_WEST, number=2, nudge=NUDGE))


def test_attack_the_parts_of_a_split_evaluated_with_and_without_a_site(tmp_path: Path) -> None:
    """A site's modalities show in which combinations have enough holders, whatever is summed."""
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, LAST, part="validation").sums
    assert is_refused(liar.evaluate(WITHOUT_WEST, LAST, part="test"))


def test_attack_two_trainings_with_and_without_a_site(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.train(ALL, 1).record.visits > 0
    again = liar.train(WITHOUT_WEST, 2)
    assert again.total is None and again.record.visits == 0
    assert {site.rejected for site in again.record.sites} == {"SecureSumRefused"}


def test_attack_a_training_with_a_site_and_an_evaluation_without_it(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.train(ALL, 1).total
    assert is_refused(liar.evaluate(WITHOUT_WEST))


def test_attack_a_sum_with_one_site_more(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.evaluate(WITHOUT_WEST, number=1).sums
    # West knows no sum yet and would take part; the four others know one.
    again = liar.evaluate(ALL, number=2, nudge=NUDGE)
    assert not again.sums and list(again.rejected.values()).count("SecureSumRefused") >= 4


def test_attack_a_site_restarted_between_two_sums(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, number=1).sums
    SITES.forget()
    assert is_refused(liar.evaluate(WITHOUT_WEST, number=2, nudge=NUDGE))


def test_attack_three_sums_of_which_no_two_differ_by_one_site(tmp_path: Path) -> None:
    """Of all, {north, south, east} leaves two and {north, west, mid} two others: their sum less all is north's own."""
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, number=1).sums
    assert liar.evaluate(WITHOUT_TWO, number=2, nudge=NUDGE).sums
    assert is_refused(liar.evaluate(("north", "west", "mid"), number=3, nudge=2 * NUDGE))
    assert is_refused(liar.evaluate(("south", "east", "west", "mid"), number=4, nudge=3 * NUDGE))


def test_a_refused_sum_gets_no_input(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    liar.evaluate(ALL, number=1)
    liar.evaluate(WITHOUT_WEST, number=2, nudge=NUDGE)
    about = [(e.kind, e.facts["round"]) for e in ledger_of(liar, "north") if "round" in e.facts]
    assert about == [("evaluation", 1), ("sum", 1)]


def test_sums_may_differ_by_two_sites_and_by_none(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    whole = liar.evaluate(ALL, number=1).sums["clinical"].n
    assert liar.evaluate(ALL, number=2, nudge=NUDGE).sums["clinical"].n == whole
    assert 0 < liar.evaluate(WITHOUT_TWO, number=3, nudge=2 * NUDGE).sums["clinical"].n < whole


@pytest.mark.parametrize(
    ("of_study", "of_sites", "is_given"), [(1, 1, True), (1, 2, False), (2, 1, False), (2, 2, False)]
)
def test_with_a_difference_of_one_on_both_sides_a_sites_sums_follow_by_subtraction(
    of_study: int, of_sites: int, is_given: bool, tmp_path: Path
) -> None:
    plan = secure_plan(min_cohort_difference=of_study)
    liar = coordinator(tmp_path, plan, min_cohort_difference=of_sites)
    before, after = liar.evaluate(ALL, number=1), liar.evaluate(WITHOUT_WEST, number=2, nudge=NUDGE)
    assert bool(after.sums) == is_given
    if is_given:
        assert before.sums["clinical"].n > after.sums["clinical"].n


def test_a_site_may_ask_for_a_larger_difference_than_the_study(tmp_path: Path) -> None:
    liar = coordinator(tmp_path, min_cohort_difference=3)
    assert liar.evaluate(ALL, number=1).sums
    assert is_refused(liar.evaluate(WITHOUT_TWO, number=2, nudge=NUDGE))


def test_a_model_is_evaluated_once_on_each_part_whatever_the_round_is_called(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    assert liar.evaluate(ALL, number=1).sums
    assert is_refused(liar.evaluate(ALL, number=2), "AlreadyAnswered")
    assert is_refused(liar.evaluate(ALL, LAST), "AlreadyAnswered")
    assert liar.evaluate(ALL, LAST, part="test").sums


def test_the_ledger_says_who_was_in_each_sum(tmp_path: Path) -> None:
    liar = coordinator(tmp_path)
    liar.train(ALL, 1)
    liar.evaluate(ALL, 1, nudge=NUDGE)
    sums = [entry for entry in ledger_of(liar, "west") if entry.kind == "sum"]
    assert [(entry.facts["purpose"], entry.facts["round"]) for entry in sums] == [("training", 1), ("validation", 1)]
    assert all(entry.facts["sites"] == sorted(ALL) for entry in sums)
    assert {entry.facts["study"] for entry in sums} == {liar.federation.plan.digest()}
