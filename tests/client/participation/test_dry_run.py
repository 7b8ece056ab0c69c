"""A rehearsal: what it writes, and who may read that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from permmoe.errors import ConfigurationError
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.site import read_site
from tests.support.tiny_federation import tiny_plan, write_site

FILES = {"training.bin", "evaluation.bin", "update.safetensors", "training.json", "evaluation.json"}


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
