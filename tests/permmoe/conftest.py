"""What tests of the science share."""

from __future__ import annotations

import pytest

from tests.support.command_line import Command, command_of


@pytest.fixture
def permmoe(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command and returns exit status, standard output and standard error."""
    return command_of(capsys)
