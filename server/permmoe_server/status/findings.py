"""What follows from a coordinator's status and its rounds: pure functions without a clock, a file or a socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

from permmoe_server.protocol.rules import reply_reason
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.studies.round_log import RoundSummary, Score

RECENT_ROUNDS = 10
"""The number of newest rounds from which the time of the next one is estimated."""


@dataclass(frozen=True)
class ModuleSupport:
    """The numbers of sites that trained a module."""

    last: int
    """The number of sites in the last round."""
    ever: int
    """The number of sites in the round in which most sites trained it."""


@dataclass(frozen=True)
class ModuleRelease:
    """Whether the sum of a module was released, which takes `min_holders` sites that trained it."""

    last: bool
    """In the last round."""
    ever: bool
    """In any round."""


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
    """Return the state of the federation in one sentence without a full stop."""
    done, total, number = status.rounds_done, status.rounds_total, status.next_round
    sites = f"{status.sites_online} of {len(status.sites)} sites online"
    match status.phase:
        case "starting":
            return f"The federation is starting; {sites}"
        case "waiting" if status.study is None:
            return f"No study is set; {sites}"
        case "waiting":
            return f"Waiting for sites before round {number} of {total}; {sites}"
        case "running":
            return f"Round {number} of {total} is running; {sites}"
        case "stalled":
            return f"Stalled before round {number} of {total}; {sites}"
        case "stopped":
            return f"Stopped after {done} of {total} rounds; {sites}"
        case "finished":
            return f"Finished: {done} of {total} rounds are done; {sites}"
        case "failed":
            return f"Failed after {done} of {total} rounds; {sites}"


def mean_rmse(scores: Mapping[str, Score]) -> float | None:
    """Return the root of the mean squared error over combinations, points; None where no combination occurs.

    The study keeps the model with the least; permmoe.evaluation.combinations.mean_squared_error is its square.
    """
    return sqrt(sum(score.rmse**2 for score in scores.values()) / len(scores)) if scores else None


def kept_round(status: CoordinatorStatus) -> int | None:
    """Return the round whose model is kept; None where no round was evaluated.

    It is the first with the least validation error or, where the study keeps its last, the last evaluated one.
    """
    evaluated = [(e, record.round) for record in status.records if (e := mean_rmse(record.validation)) is not None]
    if not evaluated:
        return None
    return evaluated[-1][1] if status.keeps_last else min(evaluated)[1]


def rmse_curves(records: Sequence[RoundSummary]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Map each combination to (round, RMSE in points) of each round that evaluated it, fewest modalities first."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, score in record.validation.items():
            curves.setdefault(name, []).append((record.round, score.rmse))
    return {name: tuple(points) for name, points in sorted(curves.items(), key=lambda item: item[0].count("+"))}


def last_validation(records: Sequence[RoundSummary]) -> RoundSummary | None:
    """Return the last round that was evaluated; None where none was."""
    return next((record for record in reversed(records) if record.validation), None)


def module_support(records: Sequence[RoundSummary]) -> dict[str, ModuleSupport]:
    """Map each module to the numbers of sites that trained it, in the order in which modules were first trained."""
    most: dict[str, int] = {}
    for record in records:
        for module, n_sites in record.holders.items():
            most[module] = max(n_sites, most.get(module, 0))
    last = records[-1].holders if records else {}
    return {module: ModuleSupport(last.get(module, 0), n_sites) for module, n_sites in most.items()}


def module_release(records: Sequence[RoundSummary]) -> dict[str, ModuleRelease]:
    """Map each module of a secure study to whether its sum was released, in the order in which modules came up."""
    ever = {module for record in records for module in record.released}
    known = {module: None for record in records for module in (*record.released, *record.withheld)}
    last = records[-1].released if records else ()
    return {module: ModuleRelease(module in last, module in ever) for module in known}


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


def at_work_since(records: Sequence[RoundSummary]) -> dict[str, int]:
    """Map each site that was at work when the last round closed to the first round that closed without it since it was
    asked, in alphabetical order."""
    since: dict[str, int] = {}
    for record in records:
        since = {site: since.get(site, record.round) for site in sorted(record.at_work)}
    return since


def last_rounds(records: Sequence[RoundSummary]) -> dict[str, int]:
    """Map each site to the last round in which its reply was accepted."""
    return {site: record.round for record in records for site in record.trained}


def round_seconds(records: Sequence[RoundSummary]) -> float | None:
    """Return the median time of the recent rounds, seconds; None before the first."""
    return median(record.seconds for record in records[-RECENT_ROUNDS:]) if records else None


def seconds_left(status: CoordinatorStatus) -> float | None:
    """Return the time that the remaining rounds take at the recent pace, seconds.

    None where no round was done or the study is not running.
    """
    pace = round_seconds(status.records)
    if status.phase != "running" or pace is None:
        return None
    return pace * max(0, status.rounds_total - status.rounds_done - status.rounds_lost)
