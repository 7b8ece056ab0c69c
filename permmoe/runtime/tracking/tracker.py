"""What a command tells a tracker of experiments, and how a tracker that fails is given up.

A tracker is told settings and figures over groups of people, never a path, an identifier or a figure of one patient.
It changes nothing: where it fails, one sentence says so, nothing more is tracked, and the work goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pkgutil import resolve_name
from typing import Any, Protocol, runtime_checkable

from permmoe.errors import ConfigurationError, nearest

TRACK_HELP = (
    "Also track settings and figures (nothing of single patients): mlflow:FOLDER, mlflow:http://HOST:PORT, or "
    "tensorboard:FOLDER."
)


@runtime_checkable
class TrackerRun(Protocol):
    """One training, cell or study at a tracker."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add figures of one step."""

    def end(self) -> None:
        """Say that nothing more comes."""


@runtime_checkable
class Tracker(Protocol):
    """A tracker, connected."""

    def run(self, group: str, name: str, settings: Mapping[str, str]) -> TrackerRun | None:
        """The run of that name, begun or gone on with; None where it has ended before, since names hold digests."""


@dataclass(frozen=True)
class TrackerKind:
    """One tracker that a command can name."""

    package: str
    """What has to be installed, as Python imports it."""
    connect: str
    """`module:function`, from the text behind the colon to a Tracker."""


KINDS = {
    "mlflow": TrackerKind("mlflow", "permmoe.runtime.tracking.to_mlflow:connect"),
    "tensorboard": TrackerKind("tensorboard", "permmoe.runtime.tracking.to_tensorboard:connect"),
}
"""By the word before the colon, which is also the name of the optional extra."""


class Tracking:
    """A tracker that cannot do harm: its first failure is told in a sentence and is its last."""

    def __init__(self, kind: str, connect: Callable[[], Tracker] | None, tell: Callable[[str], None]) -> None:
        self._kind, self._connect, self._tell = kind, connect, tell
        self._tracker: Tracker | None = None

    @property
    def is_on(self) -> bool:
        """Whether a tracker was named and has not failed."""
        return self._connect is not None

    def stop(self) -> None:
        """Track nothing more."""
        self._connect = None

    def run(self, group: str, name: str, settings: Mapping[str, Any]) -> TrackedRun:
        """Begin, or go on with, the run of that name. `settings` may be nested; every leaf is tracked as text."""
        found: list[TrackerRun | None] = []
        texts = {key: text(value) for key, value in leaves(settings)}

        def begin() -> None:
            assert self._connect
            self._tracker = self._tracker or self._connect()
            found.append(self._tracker.run(group, name, texts))

        self.attempt(begin)
        return TrackedRun(self, found[0] if found else None)

    def attempt(self, action: Callable[[], None]) -> None:
        """Do what the tracker is asked for; after a failure nothing is attempted any more."""
        if not self.is_on:
            return
        try:
            action()
        # Whatever a library or a server of somebody else's raises, a training is worth more than its log.
        except Exception as error:
            self._connect = None
            self._tell(
                f"the tracker {self._kind} failed ({type(error).__name__}); nothing more is tracked, and results are "
                "kept as without it"
            )


@dataclass(frozen=True)
class TrackedRun:
    """One run at a tracker that may have failed, or that nobody asked for."""

    tracking: Tracking
    run: TrackerRun | None

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Track the finite ones of these figures."""
        run, finite = self.run, {name: value for name, value in figures.items() if isfinite(value)}
        if run and finite:
            self.tracking.attempt(lambda: run.log(finite, step))

    def end(self) -> None:
        """Nothing more comes."""
        if self.run:
            self.tracking.attempt(self.run.end)


NOT_TRACKED = Tracking("", None, lambda sentence: None)
"""Where no tracker was named."""


def tracking_to(target: str, tell: Callable[[str], None]) -> Tracking:
    """What `--track TARGET` means; nothing is connected yet. `tell` is called once, with a sentence, if it fails.

    Raises ConfigurationError for a text that is no target, and for a library that is not installed.
    """
    if not target:
        return NOT_TRACKED
    kind, separator, rest = target.partition(":")
    if kind not in KINDS or not separator or not rest:
        hint = f"{nearest(kind, KINDS)}; " if kind not in KINDS else ""
        raise ConfigurationError(f"--track: {hint}expected mlflow:FOLDER_OR_URI or tensorboard:FOLDER")
    declared = KINDS[kind]
    if find_spec(declared.package) is None:
        raise ConfigurationError(f"--track {kind}: it is not installed; run: pip install 'permmoe[{kind}]'")
    return Tracking(kind, lambda: resolve_name(declared.connect)(rest), tell)


def run_name(what: str, settings: Mapping[str, Any]) -> str:
    """A name that says what is run, with the start of a digest of its settings: the same settings are the same run."""
    found = json.dumps(settings, sort_keys=True, default=str).encode()
    return f"{what} {hashlib.sha256(found).hexdigest()[:12]}"


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings without nesting, under names such as `train.epochs`."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def text(value: Any) -> str:
    """A setting in words: texts as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
