"""Sites fetch a round's message in turn: in order, so many at a time, and none that goes away keeps its place."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from permmoe_server.coordination.turns import Turns

LONG, SOON = 60.0, 0.05


async def settled() -> None:
    await asyncio.sleep(SOON)


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_have_their_turn_at_a_time_and_the_others_theirs_in_the_order_of_asking(most: int) -> None:
    async def scene() -> list[list[int]]:
        turns, told, seen = Turns(most, LONG), list[int](), list[list[int]]()

        async def ask(node: int) -> None:
            assert await turns.take(node, LONG)
            told.append(node)

        waiting = [asyncio.create_task(ask(node)) for node in range(7)]
        for node in range(7):
            await settled()
            seen.append(list(told))
            turns.end(node)
        await asyncio.gather(*waiting)
        return seen

    assert asyncio.run(scene()) == [list(range(min(most + ended, 7))) for ended in range(7)]


def test_a_turn_that_nobody_uses_ends_by_itself() -> None:
    async def scene() -> None:
        turns = Turns(1, 1.0)
        assert await turns.take(3, LONG)
        assert await turns.take(5, LONG)
        # Its end, late, is nobody else's.
        turns.end(3)
        assert await turns.take(7, LONG)
        turns.end(5)
        assert not await turns.take(9, 0.0)

    asyncio.run(scene())


def test_a_wait_for_a_turn_is_bounded_and_leaves_every_place_to_others() -> None:
    async def scene() -> None:
        turns = Turns(1, LONG)
        assert await turns.take(3, LONG)
        assert not await turns.take(5, SOON)
        given_up = asyncio.create_task(turns.take(7, LONG))
        await settled()
        given_up.cancel()
        with suppress(asyncio.CancelledError):
            await given_up
        turns.end(3)
        turns.end(5)
        assert await turns.take(9, LONG) and not await turns.take(11, SOON)

    asyncio.run(scene())


def test_a_node_that_asks_again_has_one_turn() -> None:
    async def scene() -> None:
        turns = Turns(2, LONG)
        assert await turns.take(3, LONG) and await turns.take(3, LONG) and await turns.take(5, LONG)
        both = [asyncio.create_task(turns.take(7, LONG)) for _ in range(2)]
        await settled()
        turns.end(3)
        await settled()
        turns.end(5)
        assert await asyncio.gather(*both) == [True, True]
        assert await turns.take(9, LONG) and not await turns.take(11, SOON)

    asyncio.run(scene())
