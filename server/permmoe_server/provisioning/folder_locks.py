"""Who holds a federation's folder: one running coordinator, and one command at a time that changes it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from permmoe.errors import ConfigurationError
from permmoe_server.provisioning.federation_folder import FederationFolder

LOCK_FILE, RUNNING_FILE = ".lock", ".running"


def running(folder: FederationFolder) -> AbstractContextManager[None]:
    """Hold the folder as its one running coordinator, or region; sites may be added and removed meanwhile.

    Raises ConfigurationError where another one runs.
    """
    return _held(folder, RUNNING_FILE, f"permmoe-server is running on {folder.path} already; stop it first")


def is_running(folder: FederationFolder) -> bool:
    """Return whether a coordinator runs on the folder."""
    try:
        with running(folder):
            return False
    except ConfigurationError:
        return True


def locked(folder: FederationFolder) -> AbstractContextManager[None]:
    """Hold the folder against other commands that change it."""
    return _held(folder, LOCK_FILE, f"another command is changing {folder.path}; repeat this one when it has ended")


@contextmanager
def _held(folder: FederationFolder, name: str, taken: str) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it when the process ends, however it ends."""
    require_founded(folder)
    handle = os.open(folder.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(taken) from None
        yield
    finally:
        os.close(handle)


def require_founded(folder: FederationFolder) -> None:
    """Raise ConfigurationError where a folder holds no federation, and is no region's."""
    if not folder.authority.is_file():
        raise ConfigurationError(
            f"no federation in {folder.path}; found one with permmoe-server init, or name its folder"
        )
