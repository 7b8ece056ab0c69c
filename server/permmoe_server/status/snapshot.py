"""Where a federation stands: the facts that the coordinator gathers, and what follows from them.

Nothing here reads a file, a socket or the time of day. No fact is about a visit or a subject.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import sqrt
from statistics import median
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from permmoe.errors import PermmoeError
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.studies.round_log import RoundSummary, Score

Phase = Literal["starting", "waiting", "running", "finished", "failed"]
PHASES: tuple[Phase, ...] = ("starting", "waiting", "running", "finished", "failed")
RECENT_ROUNDS = 10
"""The number of newest rounds from which the time of the next one is estimated."""


class StatusError(PermmoeError):
    """A coordinator's status cannot be read."""


@dataclass(frozen=True)
class SiteStatus:
    """A site of the roster."""

    name: str
    is_online: bool
    last_seen: datetime | None = None
    """None where it was never online."""
    last_round: int | None = None
    """The last round in which its reply was accepted."""
    last_rejection: str | None = None
    """The rule that its last rejected reply broke, or the type of the error that it had."""


@dataclass(frozen=True)
class CoordinatorStatus:
    """All facts that the status page, the metrics and the command show."""

    federation: str
    roster_serial: int
    started: datetime
    """When the coordinator started."""
    study: str | None = None
    """None where no study is set."""
    study_digest: str | None = None
    phase: Phase = "starting"
    detail: str = ""
    """A sentence that says more about the phase, such as what it waits for; empty where there is nothing to add."""
    rounds_total: int = 0
    records: tuple[RoundSummary, ...] = ()
    """As permmoe_server.studies.round_log.RoundLog reads them, oldest first."""
    sites: tuple[SiteStatus, ...] = ()
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Gateway rule -> requests and connections that it turned away."""
    is_synthetic: bool | None = None
    """None where that is unknown."""
    keeps_last: bool = False
    """Whether the study keeps its last round's model instead of the best round's."""

    @property
    def rounds_done(self) -> int:
        """The number of the last round that was done; 0 before the first."""
        return next((record.round for record in reversed(self.records) if record.is_aggregated), 0)

    @property
    def sites_online(self) -> int:
        """How many sites of the roster are connected."""
        return sum(site.is_online for site in self.sites)


@dataclass(frozen=True)
class ModuleSupport:
    """How many sites trained a module."""

    last: int
    """Sites in the last round."""
    ever: int
    """Sites in the round in which most sites trained it."""


@dataclass(frozen=True)
class RejectedReplies:
    """All replies that were left out for one reason."""

    rule: str
    reason: str
    count: int
    last_round: int
    senders: tuple[str, ...]
    """In alphabetical order."""


def headline(status: CoordinatorStatus) -> str:
    """Where things stand, in one sentence without a full stop."""
    done, total = status.rounds_done, status.rounds_total
    sites = f"{status.sites_online} of {len(status.sites)} sites online"
    match status.phase:
        case "starting":
            return f"The federation is starting; {sites}"
        case "waiting" if status.study is None:
            return f"No study is set; {sites}"
        case "waiting":
            return f"Waiting for sites before round {min(done + 1, total)} of {total}; {sites}"
        case "running":
            return f"Round {min(done + 1, total)} of {total} is running; {sites}"
        case "finished":
            return f"Finished: {done} of {total} rounds are done; {sites}"
        case "failed":
            return f"Failed after {done} of {total} rounds; {sites}"


def mean_rmse(scores: Mapping[str, Score]) -> float | None:
    """Root of the squared error averaged over combinations, points: what the kept model is chosen by.

    As permmoe.evaluation.combinations.mean_squared_error; None where no combination occurs.
    """
    return sqrt(sum(score.rmse**2 for score in scores.values()) / len(scores)) if scores else None


def kept_round(status: CoordinatorStatus) -> int | None:
    """The round whose model is kept; None where no round was evaluated.

    The first with the least validation error or, where the study keeps its last, the last that was evaluated.
    """
    evaluated = [(e, record.round) for record in status.records if (e := mean_rmse(record.validation)) is not None]
    if not evaluated:
        return None
    return evaluated[-1][1] if status.keeps_last else min(evaluated)[1]


def rmse_curves(records: Sequence[RoundSummary]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Combination -> (round, RMSE in points) of each round that evaluated it, fewest modalities first."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, score in record.validation.items():
            curves.setdefault(name, []).append((record.round, score.rmse))
    return {name: tuple(points) for name, points in sorted(curves.items(), key=lambda item: item[0].count("+"))}


def last_validation(records: Sequence[RoundSummary]) -> RoundSummary | None:
    """The last round that was evaluated."""
    return next((record for record in reversed(records) if record.validation), None)


def module_support(records: Sequence[RoundSummary]) -> dict[str, ModuleSupport]:
    """Module -> how many sites trained it, in the order in which modules were first trained."""
    most: dict[str, int] = {}
    for record in records:
        for module, n_sites in record.holders.items():
            most[module] = max(n_sites, most.get(module, 0))
    last = records[-1].holders if records else {}
    return {module: ModuleSupport(last.get(module, 0), n_sites) for module, n_sites in most.items()}


def rejected_replies(records: Sequence[RoundSummary]) -> tuple[RejectedReplies, ...]:
    """Return the replies that were left out, by rule, the most recent first."""
    counts: Counter[str] = Counter()
    last: dict[str, int] = {}
    senders: dict[str, set[str]] = {}
    for record in records:
        for rejection in record.rejections:
            counts[rejection.rule] += 1
            last[rejection.rule] = record.round
            senders.setdefault(rejection.rule, set()).add(rejection.sender)
    return tuple(
        RejectedReplies(rule, reply_reason(rule), counts[rule], last[rule], tuple(sorted(senders[rule])))
        for rule in sorted(last, key=lambda rule: (-last[rule], rule))
    )


def last_rounds(records: Sequence[RoundSummary]) -> dict[str, int]:
    """Site -> the last round in which its reply was accepted."""
    return {site: record.round for record in records for site in record.trained}


def round_seconds(records: Sequence[RoundSummary]) -> float | None:
    """Median time of the recent rounds; None before the first."""
    return median(record.seconds for record in records[-RECENT_ROUNDS:]) if records else None


def seconds_left(status: CoordinatorStatus) -> float | None:
    """The time that the remaining rounds take at the recent pace; None where the pace or the phase does not say."""
    pace = round_seconds(status.records)
    if status.phase != "running" or pace is None:
        return None
    return pace * max(0, status.rounds_total - status.rounds_done)


_STATUS = TypeAdapter(CoordinatorStatus)


def status_json(status: CoordinatorStatus) -> bytes:
    """The status for another program. A set of modules is written once, however many sites and rounds trained it."""
    values = _STATUS.dump_python(status, mode="json", exclude={"records": {"__all__": {"trained"}}})
    numbers: dict[tuple[str, ...], int] = {}
    for record, written in zip(status.records, values["records"], strict=True):
        written["trained"] = {
            site: numbers.setdefault(modules, len(numbers)) for site, modules in record.trained.items()
        }
    return json.dumps({**values, "module_sets": list(numbers)}, separators=(",", ":")).encode()


def parse_status(text: bytes) -> CoordinatorStatus:
    """The inverse of `status_json`. Raises StatusError."""
    try:
        values: dict[str, Any] = json.loads(text)
        sets = values.pop("module_sets")
        for record in values["records"]:
            record["trained"] = {site: sets[number] for site, number in record["trained"].items()}
        return _STATUS.validate_python(values)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ValidationError):
        raise StatusError(
            "what answered does not speak this version's status; is it the admin port of permmoe-server?"
        ) from None


class StatusBoard:
    """The newest status, written by one thread and read by others."""

    def __init__(self, status: CoordinatorStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._status, self._updated = status, clock()

    def update(self, **changes: Any) -> None:
        """Change fields of CoordinatorStatus; without any, confirm that the old ones still hold."""
        with self._lock:
            self._status, self._updated = replace(self._status, **changes), self._clock()

    def snapshot(self) -> CoordinatorStatus:
        """The status as it stands; it never changes afterwards."""
        return self._status

    def age_seconds(self) -> float:
        """The time since the last update, seconds."""
        return self._clock() - self._updated
