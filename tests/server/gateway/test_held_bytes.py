"""The bound on the bytes that the gateway holds at one time: who finds no room waits, in order, and holds up nobody."""

from __future__ import annotations

import asyncio
import queue
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import pytest

from permmoe_server.gateway.held_bytes import HeldBytes
from permmoe_server.gateway.refusals import Refused
from tests.support.gateway import (
    PULL,
    OpenDoor,
    post,
    read_all,
    status,
)
from tests.support.patience import PATIENCE_SECONDS

LONG, SOON = 60.0, 0.05
Found = TypeVar("Found")


def played(scene: Coroutine[Any, Any, Found]) -> Found:
    return asyncio.run(asyncio.wait_for(scene, PATIENCE_SECONDS))


async def stays(held: HeldBytes, site: bytes, size: int, told: list[bytes], leaves: asyncio.Event) -> None:
    async with held.room(site, size):
        told.append(site)
        await leaves.wait()


def test_an_exchange_waits_until_there_is_room_for_all_of_it_and_those_behind_it_wait_too() -> None:
    async def scene() -> list[list[bytes]]:
        held, told, seen = HeldBytes(100, 100, LONG), list[bytes](), list[list[bytes]]()
        leave = [asyncio.Event() for _ in range(4)]
        sizes = (60, 30, 50, 10)
        tasks = []
        for site, (size, event) in enumerate(zip(sizes, leave, strict=True)):
            tasks.append(asyncio.create_task(stays(held, b"%d" % site, size, told, event)))
            await asyncio.sleep(SOON)
        for event in leave:
            seen.append(list(told))
            event.set()
            await asyncio.sleep(SOON)
        await asyncio.gather(*tasks)
        return seen

    # The last one, of 10 bytes, would have found room beside the first two.
    assert played(scene()) == [
        [b"0", b"1"],
        [b"0", b"1", b"2", b"3"],
        [b"0", b"1", b"2", b"3"],
        [b"0", b"1", b"2", b"3"],
    ]


def test_attack_a_site_that_announces_more_than_its_share_waits_for_itself_and_not_the_others() -> None:
    async def scene() -> int:
        held, told, leave = HeldBytes(1000, 100, LONG), list[bytes](), asyncio.Event()
        greedy = [asyncio.create_task(stays(held, b"greedy", 90, told, leave)) for _ in range(50)]
        await asyncio.sleep(SOON)
        async with AsyncExitStack() as honest:
            for number in range(9):
                await asyncio.wait_for(honest.enter_async_context(held.room(b"%d" % number, 100)), 10.0)
        inside = told.count(b"greedy")
        leave.set()
        await asyncio.gather(*greedy)
        return inside

    assert played(scene()) == 1


def test_who_waits_too_long_is_refused_and_who_goes_away_leaves_no_bytes_behind() -> None:
    async def scene() -> None:
        held = HeldBytes(100, 100, SOON)
        async with held.room(b"a", 100):
            with pytest.raises(Refused, match="busy"):
                async with held.room(b"b", 1):
                    pass
        patient = HeldBytes(100, 100, LONG)
        async with patient.room(b"a", 100):
            going = asyncio.create_task(stays(patient, b"b", 90, [], asyncio.Event()))
            await asyncio.sleep(SOON)
            going.cancel()
            with suppress(asyncio.CancelledError):
                await going
        async with patient.room(b"c", 100):
            pass

    played(scene())


def test_who_goes_away_at_the_very_moment_when_there_is_room_leaves_it_to_others() -> None:
    async def scene() -> None:
        held = HeldBytes(100, 100, LONG)
        async with held.room(b"a", 100):
            going = asyncio.create_task(stays(held, b"b", 90, [], asyncio.Event()))
            await asyncio.sleep(SOON)
        going.cancel()
        with suppress(asyncio.CancelledError):
            await going
        async with held.room(b"c", 100):
            pass

    played(scene())


def test_bytes_that_were_set_aside_and_are_not_needed_are_anothers() -> None:
    async def scene() -> None:
        held = HeldBytes(100, 100, LONG)
        async with held.room(b"a", 100) as room:
            body = bytearray()
            room.add(body, b"x" * 30, 100, "body_size")
            room.close()
            async with held.room(b"b", 70) as other:
                with pytest.raises(Refused, match="busy"):
                    room.add(body, b"y", 100, "body_size")
                with pytest.raises(Refused, match="body_size"):
                    other.add(bytearray(), b"z" * 8, 7, "body_size")
            room.add(body, b"y" * 70, 100, "body_size")
            assert len(body) == 100

    played(scene())


@pytest.mark.parametrize("seed", range(5))
def test_never_more_bytes_are_held_than_allowed_and_everybody_gets_in_whoever_leaves_when(seed: int) -> None:
    chance = random.Random(seed)
    limit, of_a_site = 1000, 300
    held_now = dict.fromkeys((b"a", b"b", b"c", b"d"), 0)

    async def visit(held: HeldBytes) -> bool:
        site, size = chance.choice(sorted(held_now)), chance.randint(0, 400)
        await asyncio.sleep(chance.random() * SOON)
        async with held.room(site, size) as room:
            held_now[site] += room.size
            try:
                assert sum(held_now.values()) <= limit and held_now[site] <= of_a_site
                await asyncio.sleep(chance.random() * SOON)
            finally:
                held_now[site] -= room.size
        return True

    async def scene() -> list[bool | BaseException]:
        held = HeldBytes(limit, of_a_site, LONG)
        visits = [asyncio.create_task(visit(held)) for _ in range(200)]
        for gone in visits[::7]:
            asyncio.get_running_loop().call_later(chance.random() * SOON, gone.cancel)
        found = await asyncio.gather(*visits, return_exceptions=True)
        async with held.room(b"e", of_a_site), held.room(b"f", of_a_site), held.room(b"g", of_a_site):
            pass
        return found

    found = played(scene())
    assert all(one is True or isinstance(one, asyncio.CancelledError) for one in found) and found.count(True) >= 171


def test_bodies_held_at_once_are_bounded_over_all_connections_and_given_back(
    open_door: OpenDoor, lines: queue.Queue[str]
) -> None:
    door = open_door(held_bytes=1009, body_bytes=1000, body_seconds=20)
    assert status(door.send(post(PULL, b"a" * 1000))) == 209
    assert status(door.send(post(PULL, b"a" * 1000))) == 209
    door.upstream.reply = b"b" * 10
    assert status(door.send(post(PULL, b"a" * 1000))) == 503
    assert lines.get(timeout=PATIENCE_SECONDS).startswith("refused rule=busy ")
    door.upstream.reply = b"an answer"
    assert door.is_open_to_others()


def test_a_body_for_which_there_is_no_room_arrives_whole_once_there_is(open_door: OpenDoor) -> None:
    door = open_door(held_bytes=300_000, body_bytes=200_000)
    with door.connect() as slow:
        slow.sendall(post(PULL, b"a" * 200_000)[:-1])
        with door.connect() as waits:
            waits.sendall(post(PULL, b"b" * 200_000))
            waits.settimeout(1.0)
            with pytest.raises(TimeoutError):
                waits.recv(1)
            assert door.upstream.seen == []
            slow.sendall(b"a")
            assert status(read_all(slow)) == 209
            waits.settimeout(PATIENCE_SECONDS)
            assert status(read_all(waits)) == 209
    assert [seen[3] for seen in door.upstream.seen] == [b"a" * 200_000, b"b" * 200_000] and door.refused() == {}
