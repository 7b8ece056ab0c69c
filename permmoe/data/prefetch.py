"""Reading ahead: the next batch comes from the disk while the model is at work on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def one_ahead(load: Callable[[Item], Loaded], items: Iterable[Item]) -> Iterator[Loaded]:
    """What `load` makes of each item, in order, like map; a thread is one item ahead, and no more is in memory.

    An error of `load` is raised where its item would have come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="reading-ahead") as thread:
        waiting: Future[Loaded] | None = None
        for item in items:
            coming = thread.submit(load, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
