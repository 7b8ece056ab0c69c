"""The coordinator's record of announced models: what a kill, a full disk and a damaged file do to it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe.federated.model_chain import Link, check_head, head_of
from permmoe_server.provisioning.authority import issue_server, new_authority
from permmoe_server.studies.model_register import ModelRegister

NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)
AUTHORITY = new_authority("Tiny", NOW)
SERVER = issue_server(AUTHORITY, "127.0.0.1", NOW, days=90)
STUDY = "5" * 64
LINKS = [Link(1, "training", "a" * 64), Link(1, "validation", "b" * 64), Link(2, "training", "b" * 64)]


def register(folder: Path) -> ModelRegister:
    return ModelRegister(folder / "models.jsonl", STUDY, SERVER)


def test_each_model_is_a_line_on_the_disk_before_it_is_announced_and_the_chain_is_signed(tmp_path: Path) -> None:
    models = register(tmp_path)
    for count, link in enumerate(LINKS, start=1):
        announced = models.announce(link)
        assert announced.links == tuple(LINKS[:count])
        assert announced.signed.head == head_of(STUDY, LINKS[:count])
        check_head(announced.signed, AUTHORITY.certificate)
        assert len((tmp_path / "models.jsonl").read_bytes().splitlines()) == count


def test_a_register_goes_on_from_its_file_and_adds_no_link_twice(tmp_path: Path) -> None:
    for link in LINKS:
        register(tmp_path).announce(link)
    before = (tmp_path / "models.jsonl").read_bytes()
    announced = register(tmp_path).announce(LINKS[0])
    assert announced.links == tuple(LINKS) and (tmp_path / "models.jsonl").read_bytes() == before


def test_another_model_for_the_same_work_is_a_link_of_its_own(tmp_path: Path) -> None:
    models = register(tmp_path)
    for link in LINKS:
        models.announce(link)
    other = Link(1, "validation", "c" * 64)
    assert models.announce(other).links == (*LINKS, other)


@pytest.mark.parametrize("torn", [b'{"rou', b'{"round":2,"purpose":"training","model":"' + b"b" * 64 + b'"}'])
def test_a_line_that_a_kill_cut_short_was_never_announced_and_goes(torn: bytes, tmp_path: Path) -> None:
    for link in LINKS[:2]:
        register(tmp_path).announce(link)
    path = tmp_path / "models.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert register(tmp_path).announce(LINKS[2]).links == tuple(LINKS)
    assert path.read_bytes().startswith(whole) and register(tmp_path).announce(LINKS[2]).links == tuple(LINKS)


def test_a_register_of_which_only_a_torn_line_is_left_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "models.jsonl").write_bytes(b'{"rou')
    assert register(tmp_path).announce(LINKS[0]).links == (LINKS[0],)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"\xff",
        b"[]",
        b'{"round":1,"purpose":"training","model":"b"}',
        b'{"round":1,"purpose":"prediction","model":"' + b"b" * 64 + b'"}',
        b'{"round":-1,"purpose":"training","model":"' + b"b" * 64 + b'"}',
        b'{"round":1,"purpose":"training","model":"' + b"x" * 64 + b'"}',
    ],
)
def test_a_damaged_register_is_not_gone_on_with(line: bytes, tmp_path: Path) -> None:
    register(tmp_path).announce(LINKS[0])
    path = tmp_path / "models.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(ConfigurationError, match="damaged: sites will not go on"):
        register(tmp_path)


def test_on_a_full_disk_nothing_is_announced_and_the_register_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = register(tmp_path)
    models.announce(LINKS[0])
    write = os.write
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "write", lambda handle, content: write(handle, content[: len(content) // 2]))
        models.announce(LINKS[1])
    assert register(tmp_path).announce(LINKS[0]).links == (LINKS[0],)
    assert models.announce(LINKS[1]).links == tuple(LINKS[:2])
