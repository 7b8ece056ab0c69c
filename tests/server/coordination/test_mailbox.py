"""Who waits is told at once, of what concerns it, and never waits longer than it is let."""

from __future__ import annotations

import asyncio
import time

from permmoe_server.coordination.mailbox import MOST_ANSWERED, Mailbox, rung


async def waited(mailbox: Mailbox, node: int, seconds: float) -> bool:
    with mailbox.waits(node) as bell:
        return await rung(bell, seconds)


def test_a_bell_wakes_the_node_that_it_is_for_and_no_other() -> None:
    async def scene() -> list[bool]:
        mailbox = Mailbox()
        waits = [asyncio.create_task(waited(mailbox, node, 0.3)) for node in (3, 5, 7)]
        await asyncio.sleep(0.05)
        mailbox.ring([5, 99])
        return list(await asyncio.gather(*waits))

    assert asyncio.run(scene()) == [False, True, False]


def test_a_bell_that_rings_before_anybody_listens_to_it_is_heard() -> None:
    async def scene() -> bool:
        mailbox = Mailbox()
        with mailbox.waits(3) as bell:
            mailbox.ring([3])
            return await rung(bell, 60.0)

    assert asyncio.run(scene())


def test_a_node_that_asks_again_ends_its_earlier_wait_and_waits_once() -> None:
    async def scene() -> tuple[bool, bool, list[int]]:
        mailbox = Mailbox()
        first = asyncio.create_task(waited(mailbox, 3, 60.0))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(waited(mailbox, 3, 0.3))
        ended = await asyncio.wait_for(first, 10.0)
        return ended, await second, mailbox.waiting()

    # The first one looks once more, and finds what there is; the second is not told of that.
    assert asyncio.run(scene()) == (True, False, [])


def test_a_wait_that_is_given_up_leaves_no_bell_and_those_who_wait_are_known() -> None:
    async def scene() -> tuple[list[int], list[int]]:
        mailbox = Mailbox()
        waits = [asyncio.create_task(waited(mailbox, node, 60.0)) for node in (3, 5)]
        await asyncio.sleep(0.05)
        before = mailbox.waiting()
        waits[0].cancel()
        await asyncio.sleep(0.05)
        after = mailbox.waiting()
        mailbox.ring([5])
        await waits[1]
        return before, after

    assert asyncio.run(scene()) == ([3, 5], [5])


def test_a_wait_is_bounded() -> None:
    async def scene() -> None:
        mailbox = Mailbox()
        assert not await waited(mailbox, 3, 0.1)
        assert await mailbox.wait_for_replies(["a"], 0.1) == []

    begun = time.monotonic()
    asyncio.run(scene())
    assert time.monotonic() - begun < 20.0


def test_a_reply_is_told_once_to_who_asks_for_its_message_also_where_it_came_before() -> None:
    async def scene() -> list[list[str]]:
        mailbox = Mailbox()
        mailbox.answered("a")
        mailbox.answered("b")
        found = [await mailbox.wait_for_replies(["b", "c"], 0.1), await mailbox.wait_for_replies(["b", "c"], 0.1)]
        waiting = asyncio.create_task(mailbox.wait_for_replies(["a", "c"], 60.0))
        found.append(await waiting)
        waiting = asyncio.create_task(mailbox.wait_for_replies(["c"], 60.0))
        await asyncio.sleep(0.05)
        mailbox.answered("c")
        return [*found, await asyncio.wait_for(waiting, 10.0)]

    assert asyncio.run(scene()) == [["b"], [], ["a"], ["c"]]


def test_replies_that_nobody_asks_for_do_not_add_up() -> None:
    mailbox = Mailbox()
    for number in range(MOST_ANSWERED + 500):
        mailbox.answered(str(number))
    assert len(mailbox._answered) == MOST_ANSWERED and str(MOST_ANSWERED + 499) in mailbox._answered
