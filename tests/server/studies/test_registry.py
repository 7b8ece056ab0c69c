"""The federation's models: what was registered never changes, and which one is current can be taken back."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from permmoe.errors import ConfigurationError, DataError
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.training.seeds import make_model
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies import registry
from tests.support.tiny_federation import MODEL, tiny_plan

NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Tiny", "127.0.0.1")
    return made


def study_model(tmp_path: Path, seed: int) -> Path:
    """A study's model as permmoe_server.app leaves it."""
    path = tmp_path / f"study-{seed}" / "model"
    plan = tiny_plan().model_dump(mode="json")
    card = {"model": plan["model"], "plan": plan, "round": 3, "validation_mse": 1.5, "versions": {}, "machine": {}}
    save_checkpoint(path, make_model(MODEL, seed).state_dict(), card)
    return path


def three(folder: FederationFolder, tmp_path: Path) -> list[str]:
    names = [registry.register(folder, study_model(tmp_path, seed), NOW).name for seed in (1, 2, 3)]
    for name in names:
        registry.promote(folder, name, NOW)
    return names


def test_the_same_model_is_registered_once(folder: FederationFolder, tmp_path: Path) -> None:
    model = study_model(tmp_path, 1)
    first, again = registry.register(folder, model, NOW), registry.register(folder, model, NOW)
    assert first == again and len(registry.read_registry(folder).versions) == 1
    assert registry.read_registry(folder).current is None


def test_rollback_goes_back_one_promotion_at_a_time_and_then_says_so(folder: FederationFolder, tmp_path: Path) -> None:
    names = three(folder, tmp_path)
    assert registry.read_registry(folder).current == names[2]
    assert [registry.rollback(folder, NOW), registry.rollback(folder, NOW)] == [names[1], names[0]]
    with pytest.raises(ConfigurationError, match="no model was current before"):
        registry.rollback(folder, NOW)
    assert len(registry.read_registry(folder).history) == 3 + 3 + 2


def test_an_exported_model_is_the_one_that_was_registered(folder: FederationFolder, tmp_path: Path) -> None:
    three(folder, tmp_path)
    registry.rollback(folder, NOW)
    registry.export(folder, None, tmp_path / "out")
    state, card = load_checkpoint(tmp_path / "out")
    model = PerMMoE(MODEL)
    model.load_state_dict(state)
    assert all(torch.equal(state[name], tensor) for name, tensor in make_model(MODEL, 2).state_dict().items())
    assert card["round"] == 3


def test_a_changed_model_is_found_and_neither_promoted_nor_exported(folder: FederationFolder, tmp_path: Path) -> None:
    names = three(folder, tmp_path)
    shutil.rmtree(folder.models / names[0])
    shutil.copytree(study_model(tmp_path, 7), folder.models / names[0])
    tensors = folder.models / names[1] / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x00")
    assert set(registry.damaged(folder)) >= {names[0]} and names[2] not in registry.damaged(folder)
    with pytest.raises(DataError):
        registry.promote(folder, names[0], NOW)
    with pytest.raises(DataError):
        registry.export(folder, names[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_a_kill_left_behind_is_replaced(folder: FederationFolder, tmp_path: Path) -> None:
    (folder.models / "v0001").mkdir(parents=True)
    (folder.models / "v0001" / "card.json").write_text("{")
    registry.register(folder, study_model(tmp_path, 1), NOW)
    assert registry.damaged(folder) == ()


def test_an_unknown_version_names_the_nearest(folder: FederationFolder, tmp_path: Path) -> None:
    three(folder, tmp_path)
    with pytest.raises(ConfigurationError, match="did you mean 'v0002'"):
        registry.promote(folder, "v002", NOW)
