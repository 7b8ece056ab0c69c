"""Reading ahead: the same items in the same order, one of them early."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from permmoe.data.prefetch import one_ahead
from tests.support.patience import PATIENCE_SECONDS


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_everything_comes_once_and_in_order(n: int) -> None:
    assert list(one_ahead(lambda i: i * i, range(n))) == [i * i for i in range(n)]


def test_the_next_item_is_loaded_while_this_one_is_in_use_and_no_further_one() -> None:
    begun = [threading.Event() for _ in range(5)]

    def load(item: int) -> int:
        begun[item].set()
        return item

    for item in one_ahead(load, range(5)):
        # The user is still busy with this one.
        assert item == 4 or begun[item + 1].wait(timeout=PATIENCE_SECONDS)
        assert not any(event.is_set() for event in begun[item + 2 :])


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def load(item: int) -> int:
        if item == 2:
            raise FileNotFoundError("a cache entry is gone")
        return item

    loaded = one_ahead(load, range(5))
    assert [next(loaded), next(loaded)] == [0, 1]
    with pytest.raises(FileNotFoundError, match="a cache entry is gone"):
        next(loaded)


def test_a_reader_that_stops_early_leaves_no_thread_behind() -> None:
    def loading() -> Iterator[int]:
        return one_ahead(lambda i: i, range(1000))

    for _ in range(3):
        assert next(loading()) == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading-ahead")]
