"""Work for somebody who may go away: its answer, its error, or its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from permmoe_server.gateway.asker import AskerGone, unless_gone


async def stays() -> dict[str, Any]:
    await asyncio.sleep(60.0)
    return {"type": "http.disconnect"}


async def answered(seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return "answer"


def test_the_answer_is_returned_and_nothing_goes_on_behind_it() -> None:
    async def scene() -> tuple[str, int]:
        answer = await unless_gone(answered(), stays)
        return answer, len(asyncio.all_tasks())

    assert asyncio.run(scene()) == ("answer", 1)


def test_an_error_of_the_work_is_raised() -> None:
    async def fails() -> None:
        raise LookupError

    async def scene() -> None:
        await unless_gone(fails(), stays)

    with pytest.raises(LookupError):
        asyncio.run(scene())


def test_work_ends_where_who_asked_is_gone_and_not_before() -> None:
    heard = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

    async def leaves() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return heard.pop(0)

    async def scene() -> int:
        with pytest.raises(AskerGone):
            await unless_gone(answered(60.0), leaves)
        return len(asyncio.all_tasks())

    assert asyncio.run(scene()) == 1 and heard == []


def test_work_ends_with_who_waits_for_it() -> None:
    async def scene() -> int:
        waiting = asyncio.create_task(unless_gone(answered(60.0), stays))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return len(asyncio.all_tasks())

    assert asyncio.run(scene()) == 1
