"""Numbers of invented surveys, and a power study's table."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from permmoe.federated.plan import RoundPlan
from permmoe.federated.survey_facts import Facts
from permmoe.federated.survey_messages import answers
from permmoe_server.protocol.survey_told import Told
from permmoe_server.studies.survey_file import SurveyNumbers

TOLD = {
    "t1+flair/1/known": 180,
    "t1+flair/any/unknown": 32,
    "t1/0/known": 70,
    "t1+flair+tau/any/known": 40,
    "any/any/any": 9,
}


def survey_numbers(*, secure: bool = False, told: dict[str, int] | None = None, **settings: Any) -> SurveyNumbers:
    """Of a survey of T1, FLAIR and tau; six hospitals answered."""
    modalities = [{"name": name} for name in ("t1", "flair", "tau")]
    plan = RoundPlan.model_validate(
        {
            "name": "who could take part",
            "is_synthetic": True,
            "horizon_months": 24,
            "survey": {"severity": [0.5, 4.5]},
            "model": {"modalities": modalities},
            "federation": {"secure": secure},
            **settings,
        }
    )
    found = answers(Facts.of(plan), TOLD if told is None else told)
    hospitals = {} if secure else {name: 6 if name.startswith("any") else 4 for name in found}
    return SurveyNumbers.of(plan, Told(found, hospitals, tuple("abcdef")), datetime(2026, 11, 29, tzinfo=UTC))


def write_power(path: Path, **changes: str) -> Path:
    """A power.csv of three effects that were planted and one of which nobody knows; `changes` rename columns."""
    header = ["patients", "sites", "regime", "method", "reference", "combination", "truth", "cohorts", "share"]
    claims = [
        ("federated", "training-mean", "mean", "lower", (0.2, 0.8, 1.0)),
        ("federated", "training-mean", "tau", "lower", (0.0, 0.4, 0.8)),
        ("federated", "kernel-ridge", "mean", "lower", (0.0, 0.2, 0.6)),
        ("federated", "local", "mean", "not known", (0.4, 1.0, 1.0)),
    ]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([changes.get(name, name) for name in header])
        for method, reference, combination, truth, shares in claims:
            for patients, share in zip((100, 300, 800), shares, strict=True):
                writer.writerow([patients, 4, "routed", method, reference, combination, truth, 5, share])
            writer.writerow([300, 8, "routed", method, reference, combination, truth, 5, 0.6])
    return path
