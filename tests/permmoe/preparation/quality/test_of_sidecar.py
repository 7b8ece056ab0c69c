"""An image's judgement travels with it in its sidecar, and what is no sidecar of ours judges nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from permmoe.preparation.quality.of_sidecar import judgement_of
from permmoe.preparation.quality.rules import Verdict, judge_alone
from tests.support.invented_metrics import METRICS


@pytest.mark.parametrize("change", [{}, {"noise": 0.2}])
def test_the_judgement_is_that_of_the_limits(change: dict[str, float], tmp_path: Path) -> None:
    metrics = replace(METRICS, **change)
    (tmp_path / "head.json").write_text(json.dumps({"Prepared": {}, "Metrics": asdict(metrics)}))
    found = judgement_of(tmp_path / "head.nii.gz")
    assert found == judge_alone(metrics) and (found.verdict is Verdict.LOOK) == bool(change)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"Metrics": {"modality": "t1"}}', '{"Metrics": 3}'])
def test_what_is_no_sidecar_of_ours_judges_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text(content)
    assert judgement_of(tmp_path / "head.nii.gz") is None and judgement_of(tmp_path / "other.nii") is None
