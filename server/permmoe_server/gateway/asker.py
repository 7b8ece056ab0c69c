"""Who waits for the answer to a request, and may go away before it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Answer = TypeVar("Answer")


class AskerGone(Exception):
    """Who asked has closed the connection: nobody takes the answer."""


async def unless_gone(work: Coroutine[Any, Any, Answer], receive: Receive) -> Answer:
    """Return what `work` returns, and end it where who asked goes away before. Raises AskerGone.

    `receive` belongs to a request whose body has been read.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise AskerGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
