"""A model's card for the public: what Hugging Face reads, and nothing of few people."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from permmoe.config import ModelConfig
from permmoe.export.model_card import model_card
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE

CARD: dict[str, Any] = {
    "model": ModelConfig().model_dump(mode="json"),
    "is_synthetic": True,
    "data_digest": "ab12",
    "horizon_months": [24.0],
    "versions": {"permmoe": "0.1.0"},
    "metrics": {"test_mean_rmse": 1.23456},
    "tensors_sha256": "cd34",
}


def calibration(**counts: int) -> dict[str, Any]:
    return {
        "unit_points": 1.0,
        "scores": {name: [[[3, n]]] for name, n in counts.items()},
        "visits": [sum(counts.values())],
        "sites": {name: [1] for name in counts},
        "baseline_range": [0.123, 9.876],
        "prediction_range": [-0.456, 3.219],
    }


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_hugging_faces_own_library_reads_the_card_and_its_error() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(model_card(CARD)).data
    assert data.library_name == "permmoe" and {"synthetic", "tau"} <= set(data.tags)
    (result,) = data.eval_results
    assert result.metric_type == "rmse" and result.metric_value == 1.2346 and result.dataset_type == "synthetic"


def test_notices_come_first_and_the_synthetic_one_only_where_it_is_true() -> None:
    assert model_card(CARD).index(RESEARCH_NOTICE) < model_card(CARD).index("## ")
    assert SYNTHETIC_NOTICE in model_card(CARD)
    real = model_card({**CARD, "is_synthetic": False})
    assert RESEARCH_NOTICE in real and "SYNTHETIC" not in real and "synthetic" not in real


def test_digests_horizon_and_error_are_there() -> None:
    text = model_card(CARD)
    assert all(word in text for word in ("ab12", "cd34", "24 months", "RMSE 1.23 CDR-SB points", "`tau`: volume"))


def test_a_card_without_calibration_or_error_says_so() -> None:
    text = model_card({"model": CARD["model"]})
    assert "predictions have no intervals" in text and "holds no error" in text and "model-index" not in front(text)


def test_few_people_and_single_patients_numbers_are_not_told() -> None:
    text = model_card({**CARD, "calibration": calibration(t1=37, tau=4)})
    assert "| t1 | 37 |" in text and "| tau | fewer than 5 |" in text
    assert not any(number in text for number in ("0.123", "9.876", "0.456", "3.219"))


def test_a_federated_models_card_names_its_study() -> None:
    card = {"model": CARD["model"], "plan": {"name": "alpha", "is_synthetic": True}, "round": 7, "validation_mse": 4.0}
    text = model_card(card)
    assert "| federated study | alpha |" in text and "RMSE 2.00" in text and "federated-learning" in front(text)["tags"]
    assert SYNTHETIC_NOTICE in text
