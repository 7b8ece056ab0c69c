"""Clients as tasks of a Ray cluster, for many cores and many machines. The server app stays where it is."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from math import ceil, floor
from threading import Lock

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from ray.exceptions import LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.runtime.devices import CPU
from permmoe_simulation.engines.client_workers import Answer, answered

ATTEMPTS = 3
"""How often a message is worked on whose process ends before it has answered."""
LOST = (LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
"""What Ray raises of a process, or of a machine, that is gone."""


class WorkerLost(PermmoeError):
    """A client's process ended at every attempt."""


class RayWorkers:
    """A message is a task that takes one CPU, and with a `device` other than cpu a share of a GPU.

    A task whose process ends, as for lack of memory, or with its machine, is begun again from the same message, like a
    client that is started again in a hospital; at the last of ATTEMPTS WorkerLost is the answer's exception. Raises
    ConfigurationError where the cluster has no room for a single task.
    """

    def __init__(self, device: str = CPU) -> None:
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if not cpus or (device != CPU and not gpus):
            raise ConfigurationError(f"the Ray cluster has {cpus} CPUs and {gpus} GPUs, which is no room for a client")
        share = 0.0 if device == CPU else gpu_share(cpus, gpus)
        # A retry of Ray's own would not count what it lost for lack of memory.
        self._task = ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(answered)
        # One thread waits for each task that the cluster has room for.
        self._waiting = ThreadPoolExecutor(cpus)
        self._tasks: set[ray.ObjectRef] = set()
        self._lock = Lock()
        self._is_closed = False

    def submit(self, app: ClientApp, message: Message, context: Context) -> Future[Answer]:
        """The answer to come, from some process of the cluster."""
        return self._waiting.submit(self._answer, app, message, context)

    def close(self) -> None:
        """End the tasks that have begun and give up the others."""
        with self._lock:
            self._is_closed = True
            # A thread that waits for Ray after the end of it would keep this process from ending.
            for task in self._tasks:
                ray.cancel(task, force=True)
        self._waiting.shutdown(cancel_futures=True)

    def _answer(self, app: ClientApp, message: Message, context: Context) -> Answer:
        for _ in range(ATTEMPTS):
            task = self._begun(app, message, context)
            try:
                answer: Answer = ray.get(task)
                return answer
            except LOST as error:
                why = type(error).__name__
            finally:
                with self._lock:
                    self._tasks.discard(task)
        raise WorkerLost(
            f"Ray lost the process of a client {ATTEMPTS} times, at last by {why}; look at the memory of the cluster's "
            "nodes, then run the same command again: finished cells are kept"
        )

    def _begun(self, app: ClientApp, message: Message, context: Context) -> ray.ObjectRef:
        with self._lock:
            if self._is_closed:
                raise CancelledError
            task = self._task.remote(app, message, context)
            self._tasks.add(task)
            return task


def gpu_share(processes: int, gpus: int) -> float:
    """The share of a GPU that each client is given, so that all processes have a client at the same time.

    Ray counts in ten-thousandths.
    """
    return floor(10_000 / ceil(processes / gpus)) / 10_000
