"""Which files are on the disk for certain, a power cut included, in the order in which they came there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def record_synced_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each file and folder is added, by its name at that moment, as it is flushed."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    return synced
