"""A secure round in which a site's connection is lost: the site is asked the same again once it is back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode

from permmoe_server.app import make_app
from permmoe_server.coordination.nonblocking_grid import failed
from permmoe_server.protocol.exchange import MOST_TIMES_ASKED
from permmoe_server.protocol.federation import Clock
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west", "east", "mid")
LOST = FIRST_NODE + NAMES.index("west")
STAGES = ("train", "query.secure_share", "query.secure_mask", "query.secure_count", "query.secure_open")


class Losing(InProcessGrid):
    """The connection to one node is lost while it answers a stage, as often as it is told."""

    stage: str
    times: int
    has_answered: bool
    """Whether the site had done the work, and its reply was lost."""
    is_back: bool

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._left, self._is_away = self.times, False

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if node != LOST or not self._is_away]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        names = list(message_ids)
        for name in names:
            job = self._jobs.get(name)
            about = job.message.metadata if job else None
            if job and about and self._left and (about.dst_node_id, about.message_type) == (LOST, self.stage):
                self._left, self._is_away = self._left - 1, not self.is_back
                del self._jobs[name]
                if self.has_answered:
                    self._reply(job)
                return [failed(name, ErrorCode.NODE_UNAVAILABLE)]
        return super().pull_messages(names)


def losing(stage: str, times: int = 1, *, has_answered: bool = True, is_back: bool = True) -> type[Losing]:
    return type("Lossy", (Losing,), {"stage": stage, "times": times, "has_answered": has_answered, "is_back": is_back})


def federation_of(folder: Path) -> SecureFederation:
    plan = tiny_plan(secure=True, rounds=1, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, evaluate_every=0)
    return found(folder, plan, NAMES)


def run(folder: Path, grid: type[InProcessGrid] = InProcessGrid) -> tuple[SecureFederation, dict[str, Any]]:
    """The federation after one round on a clock that moves while the protocol pauses, and the round's record."""
    seconds = [0.0]

    def pause(of: float) -> None:
        seconds[0] += max(of, 1.0)

    federation = federation_of(folder)
    [record] = federation.run(server=make_app(clock=Clock(lambda: seconds[0], pause)), make_grid=grid)
    return federation, record


def rejections(record: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {site["site"]: (site["rejected"], site["lost_at"]) for site in record["sites"] if site["lost_at"]}


@pytest.mark.parametrize("has_answered", [True, False], ids=["its reply was lost", "the question was lost"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_site_that_is_back_is_in_the_sum_as_if_nothing_had_been_lost(
    stage: str, has_answered: bool, tmp_path: Path
) -> None:
    undisturbed, expected = run(tmp_path / "undisturbed")
    federation, record = run(tmp_path / "lossy", losing(stage, has_answered=has_answered))
    assert record["is_aggregated"] and not rejections(record)
    assert (record["visits"], record["released"]) == (expected["visits"], expected["released"])
    assert all((federation.weights()[name] == tensor).all() for name, tensor in undisturbed.weights().items())
    sent = {site["site"]: site["bytes_down"] for site in record["sites"]}
    assert sent.pop("west") > max(sent.values())


@pytest.mark.parametrize("stage", STAGES)
def test_a_site_that_is_not_back_by_the_end_of_the_stage_is_out(stage: str, tmp_path: Path) -> None:
    _, record = run(tmp_path, losing(stage, is_back=False))
    assert record["is_aggregated"]
    assert rejections(record) == {
        "west": (
            None if stage in ("query.secure_count", "query.secure_open") else "NODE_UNAVAILABLE",
            stage.removeprefix("query.secure_"),
        )
    }


def test_a_site_that_is_lost_each_time_is_asked_a_few_times_and_holds_nobody_up(tmp_path: Path) -> None:
    _, record = run(tmp_path, losing("query.secure_mask", times=1000, has_answered=False))
    assert record["is_aggregated"] and rejections(record) == {"west": ("NODE_UNAVAILABLE", "mask")}
    assert (
        1 < MOST_TIMES_ASKED < 1000 and record["stage_seconds"]["mask"] < tiny_plan().federation.stage_deadline_seconds
    )
