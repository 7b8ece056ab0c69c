"""A checkpoint is the old one or the new one, never half of either, and damage is noticed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import permmoe.runtime.checkpoint as checkpoint
from permmoe.errors import DataError
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import CARD_FILE, TENSORS_FILE, has_checkpoint

OLD = {"a": torch.arange(15.0).view(3, 5), "b": torch.tensor(7)}
NEW = {"a": torch.ones(3, 5), "b": torch.tensor(11)}


class Killed(BaseException):
    """Stands for a kill: nothing of the program catches it."""


def version_in(folder: Path) -> str:
    tensors, card = load_checkpoint(folder)
    expected = OLD if card["version"] == "old" else NEW
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    return str(card["version"])


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "model", OLD | {"half": torch.ones(2).half()}, {"seed": 3})
    tensors, card = load_checkpoint(tmp_path / "deep" / "model")
    assert tensors["half"].dtype == torch.float16
    assert torch.equal(tensors["a"], OLD["a"]) and torch.equal(tensors["b"], OLD["b"])
    assert card["seed"] == 3
    assert sorted(p.name for p in (tmp_path / "deep").rglob("*")) == [CARD_FILE, "model", TENSORS_FILE]


def test_transposed_view_is_saved_as_it_reads(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", {"a": OLD["a"].t()}, {})
    assert torch.equal(load_checkpoint(tmp_path / "model")[0]["a"], OLD["a"].t())


def test_groups_of_tensors_are_joined_under_their_names_and_split_again() -> None:
    groups = {"weights": {"head.out": OLD["a"], "a:b": OLD["b"]}, "average": {"head.out": NEW["a"]}}
    joined = join_groups(groups)
    assert list(joined) == ["weights:head.out", "weights:a:b", "average:head.out"]
    assert split_groups(joined) == groups


def test_a_group_that_is_expected_is_there_even_if_empty() -> None:
    assert split_groups(join_groups({"m": {"a": OLD["a"]}}), expected=("weights",)) == {
        "weights": {},
        "m": {"a": OLD["a"]},
    }


@pytest.mark.parametrize("has_old", [False, True])
@pytest.mark.parametrize("call", range(7))
def test_kill_at_any_step_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_old: bool, call: int
) -> None:
    """Every fsync, rename and removal is a step; the process dies right before one of them, clean-up included."""
    folder = tmp_path / "model"
    if has_old:
        save_checkpoint(folder, OLD, {"version": "old"})
    steps = 0

    def dies_at_its_turn(original: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > call:
                raise Killed
            return original(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", dies_at_its_turn(os.fsync))
        patch.setattr(Path, "rename", dies_at_its_turn(Path.rename))
        patch.setattr(checkpoint.shutil, "rmtree", dies_at_its_turn(checkpoint.shutil.rmtree))
        try:
            save_checkpoint(folder, NEW, {"version": "new"})
            was_killed = False
        except Killed:
            was_killed = True
    assert was_killed or call >= 4
    if has_checkpoint(folder):
        assert version_in(folder) == "new" or has_old
    else:
        assert not has_old
        with pytest.raises(DataError, match="no checkpoint"):
            load_checkpoint(folder)
    save_checkpoint(folder, NEW, {"version": "new"})
    assert version_in(folder) == "new"


SAVES_FOREVER = """
import sys, torch
from pathlib import Path
from permmoe.runtime.checkpoint import save_checkpoint
for i in range(1_000_000):
    save_checkpoint(Path(sys.argv[1]), {"a": torch.full((101, 103), float(i))}, {"version": i})
    print(i, flush=True)
"""


def test_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    process = subprocess.Popen([sys.executable, "-c", SAVES_FOREVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 20:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tensors, card = load_checkpoint(folder)
    assert card["version"] >= 20
    assert torch.equal(tensors["a"], torch.full((101, 103), float(card["version"])))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / CARD_FILE).unlink(), "card.json is missing"),
        (lambda f: (f / TENSORS_FILE).unlink(), "tensors.safetensors is missing"),
        (lambda f: _truncate(f / TENSORS_FILE), "do not belong together"),
        (lambda f: (f / TENSORS_FILE).write_bytes(b""), "do not belong together"),
        (lambda f: _truncate(f / CARD_FILE), "is damaged"),
        (lambda f: (f / CARD_FILE).write_bytes(b"\xff\xfe\x00"), "is damaged"),
        (lambda f: (f / CARD_FILE).write_text("[]"), "do not belong together"),
        (lambda f: (f / CARD_FILE).write_text("{}"), "do not belong together"),
        (lambda f: ((f / CARD_FILE).unlink(), (f / CARD_FILE).mkdir()), "cannot be read"),
    ],
)
def test_damage_is_an_error_that_says_what_and_where(tmp_path: Path, damage: Any, message: str) -> None:
    folder = tmp_path / "model"
    save_checkpoint(folder, OLD, {})
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_tensors_of_another_checkpoint_are_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "old", OLD, {})
    save_checkpoint(tmp_path / "new", NEW, {})
    (tmp_path / "old" / TENSORS_FILE).write_bytes((tmp_path / "new" / TENSORS_FILE).read_bytes())
    with pytest.raises(DataError, match="do not belong together"):
        load_checkpoint(tmp_path / "old")


def test_a_file_or_nothing_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for name in ("file", "absent"):
        with pytest.raises(DataError, match=name):
            load_checkpoint(tmp_path / name)
        assert not has_checkpoint(tmp_path / name)


def test_pickle_is_refused_even_with_a_fitting_digest(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "attacked",))

    folder = tmp_path / "model"
    save_checkpoint(folder, OLD, {})
    content = pickle.dumps(Attack())
    digest = checkpoint.hashlib.sha256(content).hexdigest()
    (folder / TENSORS_FILE).write_bytes(content)
    (folder / CARD_FILE).write_text(checkpoint.json.dumps({"tensors_sha256": digest}))
    with pytest.raises(DataError, match="no safetensors file"):
        load_checkpoint(folder)
    assert not (tmp_path / "attacked").exists()
