"""Files that appear whole or not at all: the old content or the new, whatever is killed or fails in between."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

SECRET_MODE, PUBLIC_MODE = 0o600, 0o644
FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The numbers of errors that end once somebody makes room."""
UNFINISHED_PREFIX = ".unfinished-"
"""How the names of files begin that a killed process has left behind."""


def write_file(
    path: Path,
    content: bytes | str,
    *,
    mode: int = SECRET_MODE,
    is_durable: bool = True,
    scratch: Path | None = None,
) -> None:
    """Write `content` in place of the file at `path`, whose folder is made where it is missing.

    The file has `mode` from its first moment; by default only its owner may read it. With `is_durable` the content is
    on the disk before this function returns, so that it survives a power cut; without, it survives a kill. `scratch` is
    the folder of the unfinished file, on the same file system as `path`; by default it is the folder of `path`. Raises
    OSError where the disk is full or the folder cannot be written to; the old file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=scratch or path.parent, prefix=UNFINISHED_PREFIX)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content.encode() if isinstance(content, str) else content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if is_durable:
        sync_folder(path.parent)


def append_line(path: Path, line: bytes, *, mode: int = SECRET_MODE) -> None:
    """Add a line to a file; it is on the disk before this function returns.

    The file is made where it is missing, in a folder that exists. Raises OSError, and the file is then as it was.
    """
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    size = os.fstat(handle).st_size
    try:
        content = line + b"\n"
        if os.write(handle, content) < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
    finally:
        os.close(handle)
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk, so that a file made or renamed there survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
