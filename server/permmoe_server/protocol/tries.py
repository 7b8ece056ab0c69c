"""Asking hospitals one question until enough of them have answered, with pauses between failed tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from permmoe.federated.plan import RoundPlan
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from permmoe_server.protocol.round_records import SiteRecord
from permmoe_server.protocol.waiting_room import WaitingRoom

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 60.0
"""Pauses after tries that too few sites answered; each is twice the one before."""


@dataclass(frozen=True)
class Try:
    """How asking everybody once ended."""

    sites: Sequence[SiteRecord]
    has_enough: bool
    is_used_up: bool
    """Sites gave their input to a secure sum that failed; they give it once."""


def ask_until_enough(federation: Federation, plan: RoundPlan, what: str, ask: Callable[[], Try]) -> None:
    """Call `ask` until enough sites have answered, or until the coordinator is to stop.

    `ask` asks those who are connected and keeps what came of it; `what` names it in errors. Raises NoQuorum after
    `max_failed_rounds` tries with too few sites, StudyLost where sites have given their input to a secure sum that
    failed.
    """
    room, failed = WaitingRoom(federation, plan), 0
    while True:
        federation.observer.on_round_start(1)
        room.wait(1)
        if federation.is_to_stop():
            return
        tried = ask()
        room.learn(tried.sites)
        if tried.has_enough:
            return
        failed += 1
        if tried.is_used_up:
            raise StudyLost(
                f"the {what} failed after hospitals had given their input, and they give it once; start it under "
                "another name"
            )
        if failed >= plan.federation.max_failed_rounds:
            raise NoQuorum(
                f"the {what} was tried {failed} times and had usable replies of fewer than "
                f"{plan.federation.least_sites} hospitals; rounds.jsonl says why the others were left out"
            )
        federation.clock.pause(pause_after(failed))


def pause_after(failed: int) -> float:
    """The pause after so many failed tries in a row, seconds."""
    return min(FIRST_RETRY_SECONDS * 2.0 ** (failed - 1), LAST_RETRY_SECONDS)
