"""A table that is printed is printed whole."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Group
from rich.table import Table

from permmoe.runtime.tables import print_whole

WORDS = ("in the running coordinator", "0123456789abcdef" * 4)


class Screen(io.StringIO):
    """What says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def a_table() -> Table:
    table = Table("state", "digest", title="Studies of a federation")
    table.add_row(*WORDS)
    return table


@pytest.mark.parametrize("environment", [{"COLUMNS": "30"}, {"FORCE_COLOR": "1", "TERM": "dumb"}, {}])
def test_a_pipe_gets_a_row_as_one_line_whatever_the_environment(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    print_whole(Group(a_table(), a_table()))
    rows = [line for line in capsys.readouterr().out.splitlines() if WORDS[0] in line]
    assert len(rows) == 2 and all(WORDS[1] in row for row in rows)


def test_a_narrow_terminal_folds_and_loses_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.delenv("TERM", raising=False)
    print_whole(a_table())
    lines = re.sub("\x1b\\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 30 and "…" not in screen.getvalue()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert " ".join(cell[0] for cell in cells if cell[0]) == WORDS[0]
    assert "".join(cell[1] for cell in cells) == WORDS[1]
