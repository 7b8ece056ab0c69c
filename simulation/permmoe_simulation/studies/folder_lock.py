"""One process at a time works in a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_process(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process however it ends; `note` is called before waiting for it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is at work in {folder}; waiting until it is done")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
