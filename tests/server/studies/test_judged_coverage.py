"""How often the intervals of a judged model's card hold at hospitals, plainly and by secure sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permmoe.calibration.calibrate import calibrate, predicted
from permmoe.calibration.calibration import CARD_KEY, Calibration
from permmoe.data.dataset import VisitData
from permmoe.errors import DataError
from permmoe.federated.plan import RoundPlan
from permmoe.modality import all_combinations, combination_name
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_server.studies.evaluation_commands import about, judged_table
from permmoe_server.studies.evaluation_file import EvaluationNumbers, read_evaluation_file
from tests.support.judged_models import judged_model, tiny_evaluation, write_model
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, write_site

NAMES = ("north", "south", "west", "east", "mid")


def a_calibration(folder: Path) -> Calibration:
    """Of the model on sixty visits."""
    (folder / "elsewhere").mkdir()
    made = calibrate(judged_model(), visits_of(write_site(folder / "elsewhere", "west", visits=60)), source="elsewhere")
    assert made
    return made


def visits_of(site: Path) -> VisitData:
    return site_visits(read_site(site), MODEL)


def judging(folder: Path, card: dict[str, Any], *, secure: bool, **settings: Any) -> SecureFederation:
    plan = tiny_evaluation(secure=secure, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **settings)
    federation = found(folder / "federation", plan, NAMES)
    write_model(federation.out / "judged", **card)
    return federation


def coverage_here(federation: SecureFederation, calibration: Calibration) -> dict[tuple[str, float], tuple[float, int]]:
    """The reference: of how many outcomes what share lies within the card's distance of its prediction."""
    inside: dict[tuple[str, float], list[np.ndarray]] = {}
    counts = calibration.counts(MODEL.names)
    for path in federation.deployment.sites.values():
        data = visits_of(path)
        predictions, scales = predicted(judged_model(), data)
        for j, combination in enumerate(all_combinations(MODEL.names)):
            for level in (0.8, 0.95):
                reach = scales[:, j] * counts.quantile(combination, level)
                error = np.abs(data.target.double().numpy() - predictions[:, j])
                known = ~np.isnan(error)
                inside.setdefault((combination_name(combination), level), []).append((error <= reach)[known])
    joined = {key: np.concatenate(parts) for key, parts in inside.items()}
    return {key: (float(all_of.mean()), len(all_of)) for key, all_of in joined.items() if len(all_of)}


def text_of(numbers: EvaluationNumbers) -> str:
    return " ".join(about(numbers))


@pytest.mark.parametrize(("secure", "least"), [(False, 1), (True, 1), (False, 4)])
def test_coverage_is_the_share_of_visits_whose_outcome_lies_in_the_cards_interval(
    secure: bool, least: int, tmp_path: Path
) -> None:
    calibration = a_calibration(tmp_path)
    card = {CARD_KEY: calibration.model_dump(mode="json")}
    federation = judging(tmp_path, card, secure=secure, calibrate=True, min_cell_count=least)
    federation.run()
    numbers, reference = read_evaluation_file(federation.out), coverage_here(federation, calibration)
    own = [
        (name, row.n, one) for name, row in numbers.combinations.items() for one in row.coverage
        if one.basis == "combination"
    ]  # fmt: skip
    assert {name for name, _, _ in own} >= {"clinical", "gene"} and {one.level for _, _, one in own} == {0.8, 0.95}
    for name, n, one in own:
        true, visits = reference[name, one.level]
        if visits != n:
            # A visit whose modalities too few others have counts with some of them.
            assert least > 1 and name != "clinical"
            continue
        if secure:
            assert one.least == one.most == pytest.approx(true)
        else:
            assert one.least <= true + 1e-9 and true <= one.most + 1e-9
        if least == 1:
            assert one.least == pytest.approx(true), "where no bin is merged the share is exact"
        # Fewer than `least` of a plain study's visits lie neither inside nor outside.
        for share in (one.least, one.most):
            assert secure or round(share * n) in (0, n) or least <= round(share * n) <= n - least
    assert any(0 < one.least < 1 for _, _, one in own)
    assert "in 95%" in [column.header for column in judged_table(numbers).columns]
    assert "whose outcome lay inside the interval" in text_of(numbers)
    assert ("A range:" in text_of(numbers)) == any(
        one.least < one.most for row in numbers.combinations.values() for one in row.coverage
    )
    assert "scores" not in json.loads((federation.out / "rounds.jsonl").read_text())["test"]


def test_a_model_without_a_calibration_says_so_and_one_that_was_not_asked_for_it_too(tmp_path: Path) -> None:
    without = judging(tmp_path / "a", {}, secure=False)
    without.run()
    numbers = read_evaluation_file(without.out)
    assert "The model's card has no calibration: it gives no intervals, and none were judged." in about(numbers)
    assert not any(row.coverage for row in numbers.combinations.values())
    assert "in 95%" not in [column.header for column in judged_table(numbers).columns]
    card = {CARD_KEY: a_calibration(tmp_path).model_dump(mode="json")}
    unasked = judging(tmp_path / "b", card, secure=False)
    unasked.run()
    assert "the study's file does not say 'calibrate: true'" in text_of(read_evaluation_file(unasked.out))


def test_figures_from_before_coverage_are_read_and_say_nothing_of_it(tmp_path: Path) -> None:
    federation = judging(tmp_path, {}, secure=False)
    federation.run()
    path = federation.out / "evaluation.json"
    old = json.loads(path.read_text())
    del old["has_calibration"]
    for row in old["combinations"].values():
        del row["coverage"]
    path.write_text(json.dumps(old))
    assert "calibrat" not in text_of(read_evaluation_file(federation.out))


def test_a_calibration_in_another_unit_is_an_error_before_anybody_is_asked(tmp_path: Path) -> None:
    other = a_calibration(tmp_path).model_copy(update={"unit_points": 3.5})
    federation = judging(tmp_path, {CARD_KEY: other.model_dump(mode="json")}, secure=False, calibrate=True)
    with pytest.raises(DataError, match="another unit than hospitals count errors in"):
        federation.run()
    assert not (federation.out / "rounds.jsonl").exists()


def test_a_plan_that_asks_for_sizes_of_errors_has_another_digest() -> None:
    def plan(**settings: Any) -> RoundPlan:
        return tiny_evaluation(**settings)

    assert plan().digest() != plan(calibrate=True).digest() and "calibrate" not in plan().canonical_json()
