"""`permmoe`, run inside the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from permmoe import cli

Command = Callable[..., tuple[int, str, str]]
"""Runs `permmoe` with these arguments and returns exit status, standard output and standard error."""


def exit_status(*arguments: str | Path) -> int:
    """Run `permmoe` in lines of 200 characters."""
    with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["permmoe", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        cli.main()
    return int(end.value.code or 0)


def command_of(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, whose output `capsys` catches."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = exit_status(*arguments)
        output = capsys.readouterr()
        return status, output.out, output.err

    return command
