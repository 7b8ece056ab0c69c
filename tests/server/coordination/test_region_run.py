"""The study's process in a region's superlink, a real one: its own run there, begun anew where it was forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from permmoe_client.connection.fleet import Fleet
from permmoe_server.coordination import grid_member
from permmoe_server.coordination.joined_grid import OWN, JoinedGrid
from permmoe_server.coordination.region_run import region_run
from permmoe_server.protocol.reply_sizes import ReplySize
from tests.support.patience import wait_until
from tests.support.real_superlink import RealSuperlink

SIZE = ReplySize(numbers=10_000, records=100_000)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[RealSuperlink]:
    found = RealSuperlink.founded(tmp_path / "region")
    yield found
    found.end()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RealSuperlink]:
    found = RealSuperlink.founded(tmp_path / "own")
    yield found
    found.end()


def runs(superlink: RealSuperlink) -> int:
    with sqlite3.connect(f"file:{superlink.folder.superlink_database}?mode=ro", uri=True) as database:
        return int(database.execute("select count(*) from run").fetchone()[0])


def words(text: str) -> RecordDict:
    return RecordDict({"words": ConfigRecord({"text": text})})


def reply(site: Fleet) -> None:
    """Answer the next message with its own words, twice."""
    message = site.receive()
    assert message
    site.send(Message(words(str(message.content["words"]["text"]) * 2), reply_to=message), 0.0)


def forget(superlink: RealSuperlink) -> None:
    """Start it again without what it knew."""
    superlink.end()
    for ending in ("", "-wal", "-shm"):
        Path(f"{superlink.folder.superlink_database}{ending}").unlink(missing_ok=True)
    superlink.restart()


def test_tasks_that_killed_processes_left_behind_are_passed_over(region: RealSuperlink, own: RealSuperlink) -> None:
    own.grid()
    with region.control() as control:
        left = {control.start_run({}) for _ in range(3)}
    with region_run(region.folder) as connection:
        assert connection.run.run_id not in left
        site, grid = region.site(), region.untrusting(connection, SIZE)
        [name] = grid.push_messages([Message(words("a"), site.node_id, "train", ttl=60.0, group_id="1")])
        reply(site)
        [found] = grid.pull_messages([name])
        assert found.content["words"]["text"] == "aa"
        ended = connection.run.run_id
    with region.control() as control:
        assert control.run_state(ended).is_completed


def test_without_the_regions_secret_no_run_is_begun(region: RealSuperlink) -> None:
    region.folder.executor_secret.write_bytes(b"x" * 32)
    with pytest.raises(httpx.HTTPStatusError), region_run(region.folder):
        pass
    assert runs(region) == 0


def test_a_region_that_forgot_everything_takes_part_again_and_what_was_on_the_way_fails(
    region: RealSuperlink, own: RealSuperlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_member, "COME_BACK_SECONDS", 0.1)
    sites, homes = {OWN: own.site(), "east": region.site()}, dict[int, str]()
    homes.update({site.node_id: name for name, site in sites.items()})
    regions = {"east": lambda: region_run(region.folder)}
    with JoinedGrid(own.grid(), lambda: regions, lambda _: SIZE, lambda: homes, lambda: own.keys | region.keys) as grid:

        def ask(name: str) -> str:
            [sent] = grid.push_messages([Message(words("a"), sites[name].node_id, "train", ttl=600.0, group_id="1")])
            return sent

        def answer_to(name: str) -> Message:
            found = list[Message]()
            wait_until("a reply", lambda: found.extend(grid.pull_messages([name])) or found)
            return found[0]

        asked = {name: ask(name) for name in sites}
        for site in sites.values():
            reply(site)
        assert {answer_to(name).content["words"]["text"] for name in asked.values()} == {"aa"}
        lost = ask("east")
        forget(region)
        assert answer_to(lost).has_error()
        sites["east"] = region.site()
        homes[sites["east"].node_id] = "east"
        wait_until("it is back", lambda: sites["east"].node_id in grid.get_node_ids())
        again = ask("east")
        reply(sites["east"])
        assert answer_to(again).content["words"]["text"] == "aa"
