"""What a check answers, and what it is given where something it needs could not be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from permmoe_client.preflight.report import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """A finding without its check."""

    verdict: Verdict
    detail: str
    remedy: str = ""
    items: tuple[str, ...] = ()


class Skip(Exception):
    """Raised where a check cannot be made; the text says why, and the remedy what to do first."""

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.remedy = remedy


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What was tried: its result, or what went wrong. Neither: it was not tried, since something before it failed."""

    result: T | None = None
    trouble: str = ""

    def need(self, check: str) -> T:
        """The result. Raises Skip, naming the check that says why there is none."""
        if self.result is None:
            raise Skip(f"needs {check}")
        return self.result


def ok(detail: str) -> Outcome:
    """Nothing to do."""
    return Outcome(Verdict.OK, detail)


def warning(detail: str, remedy: str, items: tuple[str, ...] = ()) -> Outcome:
    """The site can take part, though not as one would wish."""
    return Outcome(Verdict.WARNING, detail, remedy, items)


def failed(detail: str, remedy: str, items: tuple[str, ...] = ()) -> Outcome:
    """The site cannot take part."""
    return Outcome(Verdict.FAILED, detail, remedy, items)
