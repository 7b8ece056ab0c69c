"""Messages, pages and files tell people which command to run: each command that they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from permmoe import cli as permmoe_cli
from permmoe_client import cli as client_cli
from permmoe_server import cli as server_cli

ROOT = Path(__file__).parents[2]
PROGRAMS = {"permmoe": permmoe_cli.app, "permmoe-client": client_cli.app, "permmoe-server": server_cli.app}
NAMED = re.compile(r"\b(permmoe(?:-client|-server)?) ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
PROSE = {"again", "can", "is", "keeps", "needs", "runs", "server", "under", "was", "with", "writes"}
"""What follows a program's name in sentences about the program. No command may have such a name."""
PAGES = (".md", ".html", ".j2", ".yaml", ".service")


def texts(file: Path) -> Iterator[str]:
    """The strings of a Python file, or a page as a whole."""
    content = file.read_text()
    if file.suffix != ".py":
        yield content
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named_in(text: str) -> set[tuple[str, ...]]:
    """Program, command and the word after it, for every command that the text names."""
    return {match.groups() for match in NAMED.finditer(" ".join(text.split())) if match[2] not in PROSE}


def is_command(program: str, command: str, word: str | None) -> bool:
    """Whether the command exists, and where it is a group, the word after it too."""
    root = typer.main.get_command(PROGRAMS[program])
    assert isinstance(root, click.Group)
    found = root.commands.get(command)
    return word in found.commands if isinstance(found, click.Group) and word else found is not None


@pytest.mark.parametrize("side", ["client", "server"])
def test_every_command_that_is_named_exists(side: str) -> None:
    files = [file for file in (ROOT / side).rglob("*") if file.suffix in (".py", *PAGES)]
    named = {(file.relative_to(ROOT), *names) for file in files for text in texts(file) for names in named_in(text)}
    assert len(named) > 5
    assert [entry for entry in sorted(named, key=str) if not is_command(*entry[1:])] == []


def test_no_command_has_the_name_of_a_word_of_prose() -> None:
    roots = [typer.main.get_command(app) for app in PROGRAMS.values()]
    assert not PROSE & {name for root in roots if isinstance(root, click.Group) for name in root.commands}
