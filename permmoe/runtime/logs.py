"""How every long-running program of the project logs: where to, with which time, and that no message forges a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from permmoe.plain_text import plain

LogFormat = Literal["text", "json"]

LOG_BYTES, LOG_FILES = 10_000_000, 5
"""A log file is begun anew at this size; so many old ones are kept."""


def log_to(file: Path | None, form: LogFormat = "text", *, quiet: Iterable[str] = ()) -> None:
    """Log from level INFO on to a file that is rotated, or to standard error without one.

    Of the loggers named in `quiet` only warnings and worse are kept. Raises OSError where the file cannot be made.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


class PlainLines(logging.Formatter):
    """One line a message: local time with its offset from UTC, the level, the text.

    A message may repeat words of another party; through `plain` they can neither begin a line of their own nor command
    the terminal on which the log is read. Only a traceback, which is our own, has more lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        line = f"{_time(record)} {record.levelname} {plain(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601), `level`, `logger`, `message`, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, in ASCII."""
        values = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": plain(record.getMessage()),
        }
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
