"""Every setting is checked, and a mistake says what, where and what next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from permmoe.config import (
    Configuration,
    ModelConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
    VolumeGrid,
    parse_config,
    read_config,
)
from permmoe.data.cohort import CohortConfig
from permmoe.data.target_rule import TargetRule
from permmoe.errors import ConfigurationError
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.plan import RoundPlan
from permmoe.modality import Modality
from permmoe_client.site import SiteConfig
from permmoe_simulation.attacks.study import AttackStudy
from permmoe_simulation.power.plan import PowerConfig
from permmoe_simulation.studies.partition import PartitionConfig
from permmoe_simulation.studies.study import StudyConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def kinds(base: type[BaseModel] = Configuration) -> list[type[BaseModel]]:
    own = [k for k in base.__subclasses__() if k.__module__.startswith("permmoe")]
    return own + [further for k in own for further in kinds(k)]


def test_configurations_of_every_audience_are_among_those_checked() -> None:
    assert {RunConfig, TargetRule, CohortConfig, RoundPlan, SiteConfig, PartitionConfig, StudyConfig} <= set(kinds())


@pytest.mark.parametrize("kind", [*kinds(), Modality], ids=lambda k: f"{k.__module__}.{k.__name__}")
def test_unknown_key_names_the_nearest_in_every_configuration(kind: type[BaseModel]) -> None:
    for key in kind.model_fields:
        with pytest.raises(ValueError, match=f"unknown key '{key}_x'; did you mean '{key}'"):
            kind.model_validate({f"{key}_x": 1})


def test_unknown_key_far_from_all_lists_them() -> None:
    with pytest.raises(ConfigurationError, match=r"known: seed, scheme|known: scheme, seed"):
        parse_config({"zzzz": 1}, SplitConfig, "here")


def test_error_in_a_file_names_file_place_and_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  learning_rat: 1.0\nmodel:\n  modalities:\n  - {name: t1, kin: volume}\n  width: -1\n")
    with pytest.raises(ConfigurationError) as caught:
        read_config(path, RunConfig)
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be used:")
    assert "train: unknown key 'learning_rat'; did you mean 'learning_rate'?" in text
    assert "model.modalities.0: unknown key 'kin'; did you mean 'kind'?" in text
    assert "model.width: " in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [1, 2", "is not valid YAML"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "is not valid YAML"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"", "holds no settings"),
        (b"!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_file_that_is_no_configuration_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_config(path, RunConfig)
    assert str(path) in str(caught.value)


def test_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no configuration file at"):
        read_config(tmp_path / "absent.yaml", RunConfig)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_configuration_that_we_ship_loads(path: Path) -> None:
    simulated = "methods" in yaml.safe_load(path.read_text())
    kinds = {
        "studies": StudyConfig if simulated else RoundPlan,
        "models": RunConfig,
        "attacks": AttackStudy,
        "cohorts": CohortConfig,
        "power": PowerConfig,
        "surveys": RoundPlan,
    }
    assert read_config(path, kinds[path.relative_to(CONFIGS).parts[0]])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"modalities": []}, "modalities"),
        (ModelConfig, {"modalities": [{"name": "t1"}, {"name": "t1"}]}, "named twice: t1, t1"),
        (ModelConfig, {"modalities": [{"name": "T 1"}]}, "name"),
        (ModelConfig, {"modalities": [{"name": "fluid", "kind": "tabular"}]}, "without columns: fluid"),
        (ModelConfig, {"experts": 3, "top_k": 5}, "top_k = 5 exceeds experts = 3"),
        (ModelConfig, {"width": 10, "heads": 3}, "not a multiple"),
        (ModelConfig, {"encoder": {"cells": [0, 3, 5]}}, "encoder.cells.0"),
        (VolumeGrid, {"shape": [5, -7, 11]}, "shape.1"),
        (VolumeGrid, {"spacing_mm": 0}, "spacing_mm"),
        (TrainConfig, {"modality_dropout": 1.0}, "modality_dropout"),
        (TrainConfig, {"learning_rate": "fast"}, "learning_rate"),
        (SplitConfig, {"validation": 0.5, "test": 0.5}, "leave no visit to train on"),
    ],
)
def test_values_that_cannot_work_are_refused(
    kind: type[Configuration], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_config(values, kind, "here")


def test_digest_depends_on_meaning_and_not_on_writing() -> None:
    written = TrainConfig.model_validate({"seed": 0, "epochs": 60})
    assert written.digest() == TrainConfig().digest()
    assert TrainConfig(seed=1).digest() != TrainConfig().digest()
    assert ModelConfig.model_validate_json(ModelConfig().canonical_json()) == ModelConfig()


def test_settings_that_save_memory_leave_digests_alone_until_they_are_used() -> None:
    saving = TrainConfig(micro_batch=3, checkpoint_encoders=True)
    assert {"micro_batch", "checkpoint_encoders"}.isdisjoint(json.loads(TrainConfig().canonical_json()))
    assert {"micro_batch", "checkpoint_encoders"} < json.loads(saving.canonical_json()).keys()
    assert len({TrainConfig().digest(), saving.digest(), TrainConfig(micro_batch=3).digest()}) == 3
    assert TrainConfig.model_validate_json(saving.canonical_json()) == saving


def test_the_range_of_the_outcome_leaves_digests_alone_until_it_is_another() -> None:
    assert ModelConfig().outcome_range == (-18.0, 18.0)
    assert "outcome_range" not in ModelConfig().model_dump()
    assert ModelConfig.model_validate({"outcome_range": [-18, 18]}).digest() == ModelConfig().digest()
    for other in ((0.0, 12.0), None):
        changed = ModelConfig(outcome_range=other)
        assert changed.digest() != ModelConfig().digest()
        assert ModelConfig.model_validate_json(changed.canonical_json()) == changed


@pytest.mark.parametrize("bounds", [(3.0, 3.0), (3.0, -3.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_range_of_the_outcome_that_is_none_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"outcome_range = .* is no range"):
        parse_config({"outcome_range": bounds}, ModelConfig, "here")


def test_configuration_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_centring_round_takes_no_local_epoch_and_no_server_momentum() -> None:
    config = FederationConfig(local_epochs=3, server_optimiser="fedadam", aggregation="zero_fill")
    assert config.is_centring(1) and not config.is_centring(2)
    assert [config.first_epoch(n) for n in (2, 3)] == [0, 3]
    assert (config.of_round(1).server_optimiser, config.of_round(1).aggregation) == ("fedavg", "modality_fedavg")
    assert config.of_round(2) == config
    without = FederationConfig(local_epochs=3, centring_round=False)
    assert [without.first_epoch(n) for n in (1, 2)] == [0, 3]
