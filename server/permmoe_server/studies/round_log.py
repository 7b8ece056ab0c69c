"""Follow a study's `rounds.jsonl` (permmoe_server.studies.round_line) while another process writes it.

Only a little of each line is kept, and of fixed types: counts, sums, and names of rules, sites and modules.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, Literal

from permmoe_server.protocol.rules import AT_WORK

LOG = logging.getLogger("permmoe.server")

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = ("validation", "test")
"""What a round may evaluate."""
OLD_MIN_HOLDERS = 3
"""Sites that a study asks for unless it says otherwise; older logs counted the sites of each module."""
REMEMBERED_BYTES = 256
"""The end of a line, where its times and error sums stand: no two lines that were ever written share it."""


@dataclass(frozen=True)
class Score:
    """The model's error on one combination."""

    n: int
    """The number of visits at all sites."""
    rmse: float
    """The root mean squared error, points of the study's score."""
    between: tuple[float, float] | None = None
    """In a private study, whose figures are estimates: the bounds of the RMSE."""


@dataclass(frozen=True)
class Rejection:
    """A reply that was left out, or a reply that never came."""

    node: int
    sender: str
    """The site, or a text such as `node 17` where it is unknown which site the node is."""
    rule: str
    """The rule that the reply broke, `no_reply`, or the type of the error that the site reported."""
    part: Part = "training"


@dataclass(frozen=True)
class RoundSummary:
    """The part of a round's record (permmoe_server.protocol.round_records) that the coordinator shows."""

    round: int
    is_aggregated: bool
    """False where too few replies were accepted: the model stayed as it was."""
    seconds: float
    is_used_up: bool = False
    """Secure: a try that failed after sites had given their input; the next one has the next number."""
    train_loss: float | None = None
    """Mean over the accepted sites' visits, squared points; None without any."""
    bytes_down: int = 0
    bytes_up: int = 0
    trained: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Accepted site -> the modules that it trained; no module after a secure round, where that is unknown."""
    is_secure: bool = False
    holders: Mapping[str, int] = field(default_factory=dict)
    """Plain: module -> how many sites trained it."""
    released: tuple[str, ...] = ()
    """Secure: modules that `min_holders` sites or more trained; how many, nobody but the sites knows."""
    withheld: tuple[str, ...] = ()
    """Secure: the study's other modules."""
    lost: Mapping[str, str] = field(default_factory=dict)
    """Secure: site that went silent after its input was in -> the stage that it was lost at."""
    at_work: tuple[str, ...] = ()
    """The sites that had not answered when the training closed, and might still."""
    rejections: tuple[Rejection, ...] = ()
    """Without those that were at work."""
    has_evaluation: bool = False
    """Whether sites were asked to evaluate its model, and one answered at least."""
    validation: Mapping[str, Score] = field(default_factory=dict)
    """By combination; empty where nothing was evaluated, or what was covers too few subjects to be released."""
    test: Mapping[str, Score] = field(default_factory=dict)


class RoundLog:
    """Reads the rounds of a study's folder; each call reads what was added since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._module_sets: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._offset, self._end = 0, b""
        self._records: tuple[RoundSummary, ...] = ()

    def read(self) -> tuple[RoundSummary, ...]:
        """Return all rounds written so far; there are none before the file exists.

        A last line without its end waits for the next call. A study that resumes may cut its last lines and write
        others: where the file no longer has what was read, it is read again from the start.
        """
        new = self._new_bytes()
        if new is None:
            self._start_over()
            new = self._new_bytes() or b""
        complete = new[: new.rfind(b"\n") + 1]
        if complete:
            self._offset += len(complete)
            self._end = (self._end + complete)[-REMEMBERED_BYTES:]
            self._records += tuple(s for line in complete.splitlines() if (s := self._summary(line)) is not None)
        return self._records

    def _start_over(self) -> None:
        self._offset, self._end, self._records = 0, b"", ()

    def _new_bytes(self) -> bytes | None:
        """Return the bytes after those that were read; None where the latter are gone or were changed."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._end))
                found = file.read()
        except FileNotFoundError:
            return None if self._offset else b""
        return found.removeprefix(self._end) if found.startswith(self._end) else None

    def _summary(self, line: bytes) -> RoundSummary | None:
        """Return the summary of a line; None for a damaged line, so that the page can show the other rounds."""
        try:
            summary = summarise(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            LOG.warning("a line of %s is no round's record and is not shown", self._path.name)
            return None
        # Sites train the same modules round after round: one tuple serves them all.
        shared = {site: self._module_sets.setdefault(modules, modules) for site, modules in summary.trained.items()}
        return replace(summary, trained=shared)


def summarise(record: Mapping[str, Any]) -> RoundSummary:
    """Return the summary of a line; raises ValueError, KeyError, TypeError or AttributeError for a damaged one."""
    sites = record["sites"]
    names = {int(site["node"]): str(site["site"]) for site in sites if site["site"]}

    def rejection(node: int, rule: str, part: Part) -> Rejection:
        return Rejection(node, names.get(node, f"node {node}"), rule, part)

    rejections = [rejection(int(s["node"]), str(s["rejected"]), "training") for s in sites if s["rejected"] is not None]
    for part in PARTS:
        for node, rule in (record[part] or {}).get("rejected", {}).items():
            rejections.append(rejection(int(node), str(rule), part))
    at_work = tuple(one.sender for one in rejections if (one.part, one.rule) == ("training", AT_WORK))
    loss = float(record["train_loss"])
    trained = {str(s["site"]): tuple(map(str, s["modules"])) for s in sites if s["rejected"] is None}
    is_secure = bool(record.get("is_secure", False))
    released, withheld = _released(record) if is_secure else ((), ())
    return RoundSummary(
        round=int(record["round"]),
        is_aggregated=bool(record["is_aggregated"]),
        seconds=float(record["seconds"]),
        is_used_up=bool(record.get("is_spent", False)),
        train_loss=loss if isfinite(loss) else None,
        bytes_down=sum(int(site["bytes_down"]) for site in sites),
        bytes_up=sum(int(site["bytes_up"]) for site in sites),
        trained=trained,
        is_secure=is_secure,
        holders={} if is_secure else _counts(trained),
        released=released,
        withheld=withheld,
        lost={str(s["site"]): str(s["lost_at"]) for s in sites if s.get("lost_at") and s["rejected"] is None},
        at_work=at_work,
        rejections=tuple(one for one in rejections if one.rule != AT_WORK),
        has_evaluation=any(bool((record[part] or {}).get("sites")) for part in PARTS),
        validation=_scores(record["validation"]),
        test=_scores(record["test"]),
    )


def _counts(trained: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    return dict(Counter(module for modules in trained.values() for module in modules))


def _released(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules that were released and those that were not."""
    if "released" in record:
        return tuple(map(str, record["released"])), tuple(map(str, record["withheld"]))
    # Logs of older versions counted the sites of each module, and not which were released.
    counts = {str(module): int(n) for module, n in record["holders"].items()}
    enough = tuple(module for module, n in counts.items() if n >= OLD_MIN_HOLDERS)
    return enough, tuple(module for module in counts if module not in enough)


def _scores(evaluation: Mapping[str, Any] | None) -> dict[str, Score]:
    sums, bounds = (evaluation or {}).get("sums", {}), (evaluation or {}).get("bounds", {})
    scores = {
        str(name): _score(int(s["n"]), float(s["squared"]), bounds.get(name)) for name, s in sums.items() if s["n"]
    }
    return {name: score for name, score in scores.items() if isfinite(score.rmse)}


def _score(n: int, squared: float, bounds: Mapping[str, Any] | None) -> Score:
    """Return what permmoe.evaluation.combinations.ErrorSums.rmse does, without importing a deep-learning library."""
    low, high = map(float, bounds["rmse"]) if bounds else (None, None)
    return Score(n, sqrt(squared / n), None if low is None or high is None else (low, high))
