"""Worker processes last for many pieces of work, or for one."""

from __future__ import annotations

import os

import pytest

from permmoe.runtime.workers import worker_pool


@pytest.mark.parametrize("is_process_new", [False, True])
def test_work_shares_processes_or_has_one_to_itself(is_process_new: bool) -> None:
    with worker_pool(2, threads=1, is_process_new=is_process_new) as pool:
        used = [future.result() for future in [pool.submit(os.getpid) for _ in range(5)]]
    assert os.getpid() not in used
    assert len(set(used)) == 5 if is_process_new else len(set(used)) <= 2
