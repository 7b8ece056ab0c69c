"""A rehearsal: what it writes, and who may read that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from permmoe.errors import ConfigurationError
from permmoe.federated.fixed_point import to_fixed_point
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.secure.blocks import training_blocks
from permmoe.training.seeds import make_model
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.site import read_site
from tests.support.tiny_federation import tiny_plan, write_site

FILES = {"README.txt", "training.bin", "evaluation.bin", "update.safetensors", "training.json", "evaluation.json"}


def test_a_rehearsal_writes_all_that_would_have_left_for_its_owner_only(tmp_path: Path) -> None:
    site, folder = read_site(write_site(tmp_path, "north")), tmp_path / "rehearsal"
    said = dry_run(site, tiny_plan(), folder)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(FILES, 0o600)
    figures = json.loads((folder / "training.json").read_text())
    update = load_file(folder / "update.safetensors")
    assert {name: tensor.numel() for name, tensor in update.items()} == figures["values"]
    assert figures["site"] == "north" and figures["support"].keys() == update.keys()
    assert "nothing was sent" in said and str(folder) in said


def test_a_rehearsal_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty"):
        dry_run(read_site(write_site(tmp_path, "north")), tiny_plan(), tmp_path / "rehearsal")


def test_a_rehearsal_evaluates_only_where_the_study_does(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))
    said = dry_run(site, tiny_plan(evaluate_every=0), tmp_path / "never")
    assert {path.name for path in (tmp_path / "never").iterdir()} == {f for f in FILES if "evaluation" not in f}
    assert "the study evaluates nothing" in said
    for every in (1, 2, 7):
        dry_run(site, tiny_plan(evaluate_every=every), tmp_path / str(every))
        assert {path.name for path in (tmp_path / str(every)).iterdir()} == FILES


def test_a_private_study_cannot_be_rehearsed_without_a_ledger(tmp_path: Path) -> None:
    privacy = {"noise_multiplier": 2.0, "patients_per_step": 8, "count_noise": 1.0}
    plan = tiny_plan(privacy=privacy, evaluate_every=0)
    with pytest.raises(ConfigurationError, match="needs a ledger"):
        dry_run(read_site(write_site(tmp_path, "north")), plan, tmp_path / "new")


def rehearsed_secure(folder: Path) -> tuple[RoundPlan, Path, str]:
    folder.mkdir(exist_ok=True)
    plan = tiny_plan(secure=True, min_sites=3)
    said = dry_run(read_site(write_site(folder, "north")), plan, folder / "rehearsal")
    return plan, folder / "rehearsal", said


def test_a_rehearsal_of_a_secure_study_writes_the_masked_messages_and_says_what_would_not_leave(tmp_path: Path) -> None:
    _, folder, said = rehearsed_secure(tmp_path)
    leaves = {path.name for path in folder.iterdir() if path.is_file()}
    stays = {path.name for path in (folder / "under-the-mask").iterdir()}
    assert leaves == {"README.txt", "training.bin", "evaluation.bin"} and stays == FILES - leaves
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*") if path.is_file())
    readme = (folder / "README.txt").read_text()
    would, would_not = readme.split("would NOT have left")
    assert all(name in would for name in leaves - {"README.txt"}) and all(name in would_not for name in stays)
    assert "under a mask" in said and "3 sites" in said


def test_the_masked_message_of_a_rehearsal_shows_nothing_of_what_is_under_the_mask(tmp_path: Path) -> None:
    plan, folder, _ = rehearsed_secure(tmp_path)
    update = load_file(folder / "under-the-mask" / "update.safetensors")
    message = (folder / "training.bin").read_bytes()
    layout = ModuleLayout.of(make_model(plan.model, plan.train.seed))
    n_numbers = sum(training_blocks(layout).values())
    # Every module takes its place, trained or not.
    assert len(message) > 8 * n_numbers > 8 * sum(tensor.numel() for tensor in update.values())
    fixed = {to_fixed_point(tensor)[0].numpy().tobytes()[:64] for tensor in update.values() if tensor.abs().sum()}
    assert fixed and not any(numbers in message for numbers in fixed)


def test_two_rehearsals_of_a_secure_study_have_the_same_under_other_masks(tmp_path: Path) -> None:
    plan, one, _ = rehearsed_secure(tmp_path / "one")
    _, two, _ = rehearsed_secure(tmp_path / "two")
    under = "under-the-mask/update.safetensors"
    assert (one / under).read_bytes() == (two / under).read_bytes()
    layout = ModuleLayout.of(make_model(plan.model, plan.train.seed))
    masked = [np.frombuffer((folder / "training.bin").read_bytes(), np.uint8) for folder in (one, two)]
    # Of two masked numbers a byte is the same by chance alone: one in 256.
    assert (masked[0] != masked[1]).sum() > 0.99 * 8 * sum(training_blocks(layout).values())
