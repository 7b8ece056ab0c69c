"""What a study's process says of itself, for the coordinator: whom it waits for, and why it ended.

It is one small file, replaced whole. Nobody needs it to go on with the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from permmoe.errors import PermmoeError
from permmoe.runtime.files import FULL_DISK, PUBLIC_MODE, write_file
from permmoe_server.protocol.readiness import Readiness, StudyLost


@dataclass(frozen=True)
class Standing:
    """The newest word of a study's process."""

    readiness: Readiness | None = None
    """None before it has asked its sites."""
    ended: str = ""
    """Why it ended before the study did, in a sentence; empty while it runs."""
    is_lost: bool = False
    """Whether nothing can bring the study to its end."""
    has_stopped: bool = False
    """Whether it ended because it was asked to stop."""


_STANDING = TypeAdapter(Standing)


class StandingFile:
    """The file as the study's process writes it, and the file by which that process is asked to stop."""

    def __init__(self, path: Path, stop: Path) -> None:
        self._path, self._stop = path, stop
        self._written, self._is_to_stop = Standing(), False

    def is_to_stop(self) -> bool:
        """Whether the study is to end here, for now; once it was, it is for this process."""
        self._is_to_stop = self._is_to_stop or self._stop.exists()
        return self._is_to_stop

    def tell(self, readiness: Readiness) -> None:
        """Say who is ready."""
        self._write(Standing(readiness))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Begin with an empty standing; at the end of the block say how it ended."""
        self._path.unlink(missing_ok=True)
        try:
            yield
        except PermmoeError as error:
            self._end(str(error), is_lost=isinstance(error, StudyLost))
            raise
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._end(f"{reason}; make room" if error.errno in FULL_DISK else reason)
            raise
        except Exception as error:
            self._end(type(error).__name__)
            raise
        self._write(replace(self._written, has_stopped=self._is_to_stop))

    def _end(self, reason: str, *, is_lost: bool = False) -> None:
        self._write(replace(self._written, ended=reason, is_lost=is_lost))

    def _write(self, standing: Standing) -> None:
        if standing != self._written:
            # Where the disk is full the coordinator learns less, and the study goes on.
            with suppress(OSError):
                write_file(self._path, _STANDING.dump_json(standing), mode=PUBLIC_MODE, is_durable=False)
            self._written = standing


def read_standing(path: Path) -> Standing:
    """Return what the process said last; nothing is known where it said nothing, or the file is damaged."""
    try:
        return _STANDING.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Standing()
