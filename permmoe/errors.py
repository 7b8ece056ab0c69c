"""The errors that a person, not a programmer, can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PermmoeError(Exception):
    """What happened, where, and what to do next, in a sentence or two.

    Commands print the message without a traceback and exit with `exit_status`. The message may name files of the
    machine it is shown on; it must never be sent to another machine.
    """

    exit_status = 2
    """The same command fails again until somebody changes it or what it names."""

    def __init__(self, message: str = "", *, for_log: str = "") -> None:
        super().__init__(message)
        self.for_log = for_log
        """The same without subjects and files, for a log; empty where only the message says it."""


class ConfigurationError(PermmoeError):
    """A configuration file or a command-line option that cannot be used."""


class DeviceUnusable(ConfigurationError):
    """A GPU that was asked for is absent, full, or failed; the text names no file and no subject."""


class TryAgainLater(PermmoeError):
    """Time, or somebody elsewhere, mends it: the same command may succeed when it is repeated."""

    exit_status = 75
    """EX_TEMPFAIL of sysexits.h: a service manager starts the program again."""


class DataError(PermmoeError):
    """Tables or images that cannot be used at all (a single broken volume is quarantined instead)."""


def refuse_unknown_keys(values: object, known: Iterable[str]) -> None:
    """Raise ValueError for the first key of a mapping that is not known, naming the nearest; others pass."""
    choices = list(known)
    for key in values if isinstance(values, dict) else ():
        if key not in choices:
            raise ValueError(f"unknown key {key!r}; {nearest(str(key), choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word most like `word`, or all known words where none is near."""
    choices = list(known)
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(sorted(choices))}"
