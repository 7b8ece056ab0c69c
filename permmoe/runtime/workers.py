"""Worker processes: forked from one that has imported what they need and has computed nothing.

A process that starts from scratch imports PyTorch for seconds. A fork of a process that has computed would take along
its data and the locks of its threads. Workers end with the process that started them, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType

import torch

FORKED = multiprocessing.get_context("forkserver")


def import_beforehand(*modules: str) -> None:
    """Let the common parent of all workers import these modules; no effect once there is a worker."""
    FORKED.set_forkserver_preload(["__main__", *modules])


class WorkerPool(ProcessPoolExecutor):
    """A pool that begins nothing more once its block fails or is interrupted; what has begun is waited for."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes; what waits is given up where the block raised."""
        self.shutdown(wait=True, cancel_futures=error is not None)


def worker_pool(
    workers: int,
    threads: int | None = None,
    *,
    is_process_new: bool = False,
    environment: Mapping[str, str] | None = None,
) -> WorkerPool:
    """A pool of that number of processes, each with that number of PyTorch's threads, by default PyTorch's choice.

    `is_process_new`: each piece of work has a process of its own, which ends with it and gives back what it took of a
    GPU. `environment` is added to that of the common parent, which is as it was when the first worker was made.
    """
    tasks = 1 if is_process_new else None
    given = (threads, dict(environment or {}))
    return WorkerPool(workers, FORKED, initializer=_begin, initargs=given, max_tasks_per_child=tasks)


def _begin(threads: int | None, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    if threads:
        torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    # A ProcessPoolExecutor's workers would wait for work for ever.
    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
