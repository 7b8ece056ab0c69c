"""A file that this account may not read, whichever account runs the tests: for root every file is open."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import pytest


def deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Let every opening of this file fail, as the system refuses it."""
    opened = io.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(file, int) and Path(file) == denied:
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(io, "open", refuse)
