"""What the command says of a survey's losses."""

from __future__ import annotations

import pytest

from permmoe_benchmarks import survey_losses


@pytest.mark.parametrize("all_sets", [False, True])
def test_a_survey_tells_no_more_than_is_true_and_a_later_study_sums_no_more_than_there_are(
    all_sets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_losses, "HOSPITALS", (40, 61))
    found = survey_losses.measure(all_sets=all_sets)
    assert found.true["any/any/any"] == 101 and all(found.told[name] <= n for name, n in found.true.items())
    assert 0 < found.after <= found.of_parts < 101 and found.without <= found.of_parts
