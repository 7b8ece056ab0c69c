"""Which GPU each cell runs on: cells are spread over all of them, and as many share one as its memory holds.

What a cell needs is measured: the first of its kind has a GPU to itself, and says what it took. Should later ones need
more after all, they train in micro-batches (permmoe.training.within_memory).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from permmoe.errors import ConfigurationError, DeviceUnusable
from permmoe.runtime.devices import AUTO, CPU, free_gpu_bytes, may_fall_back
from permmoe.runtime.text import size_text
from permmoe.runtime.workers import worker_pool
from permmoe_simulation.studies.progress import Progress

BESIDE_TENSORS_BYTES = 2**30
"""What a process takes of a GPU beside its tensors, for CUDA and its libraries: rounded up."""

Place = tuple[str, int]
"""A device, and how many bytes of its memory are kept free for what runs there."""
What = TypeVar("What")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[What, Result]):
    """Something to be run in a process of its own."""

    what: What
    work: Callable[[str], Result]
    """Given the name of a device, in the process; it has to be one that another process can be sent."""
    wants_gpu: bool = False
    alike: Hashable = None
    """Jobs of which this is equal need as much memory of a GPU."""


def gpu_for(need: int | None, free: Mapping[str, int], taken: Mapping[str, Sequence[int]]) -> str | None:
    """Of the GPUs that hold `need` bytes more, or that nothing runs on, the one on which fewest things run; None: wait.

    `free`: bytes of each GPU before anything ran there; `taken`: what each of the things that run there needs. A need
    that is not known, None, is that of the whole GPU.
    """
    left = {gpu: size - sum(taken.get(gpu, ())) for gpu, size in free.items()}
    able = [gpu for gpu in free if not taken.get(gpu) or (need is not None and need <= left[gpu])]
    return max(able, key=lambda gpu: (-len(taken.get(gpu, ())), left[gpu]), default=None)


def study_gpus(device: str, progress: Progress) -> dict[str, int]:
    """The GPUs that `--device` means, with their free bytes; none for the CPU, and at auto where none can be used.

    Raises ConfigurationError for another device, DeviceUnusable for GPUs that are named and cannot be used. They are
    asked by a process that then ends: one that has looked holds on to memory of every GPU.
    """
    kind, _, number = device.partition(":")
    if device == CPU:
        return {}
    if kind not in (AUTO, "cuda"):
        raise ConfigurationError(f"device {device!r} is not a device for studies; use auto, cpu, cuda or cuda:N")
    with worker_pool(1) as pool:
        free, why = pool.submit(free_gpu_bytes, f"cuda:{number}" if number else None).result()
    if not free and not may_fall_back(device):
        raise DeviceUnusable(f"device {why}; mend that, or use cpu or auto")
    if free:
        progress.note(f"GPUs: {', '.join(f'{gpu} ({size_text(size)} free)' for gpu, size in free.items())}")
    if why:
        progress.note(f"not used: {why}")
    return free


@dataclass
class Places:
    """What runs on which GPU, and what was measured so far."""

    gpus: Mapping[str, int]
    """Free bytes before anything runs, by name."""
    falls_back: bool
    """Whether a job goes on with the CPU where its GPU fails."""
    _taken: dict[str, list[int]] = field(default_factory=dict)
    _needs: dict[Hashable, int] = field(default_factory=dict)

    def take(self, job: Job[What, Result]) -> Place | None:
        """The device that a job may run on now and what it takes of it, bytes; None where it has to wait."""
        if not job.wants_gpu or not self.gpus:
            return CPU, 0
        need = self._needs.get(job.alike)
        gpu = gpu_for(need, self.gpus, self._taken)
        if gpu is None:
            return None
        taken = self.gpus[gpu] if need is None else need
        self._taken.setdefault(gpu, []).append(taken)
        return gpu, taken

    def leave(self, job: Job[What, Result], place: Place, used: int | None) -> None:
        """A job is done; `used` is what its tensors took, bytes, where that is known."""
        gpu, taken = place
        if gpu != CPU:
            self._taken[gpu].remove(taken)
        if used is not None:
            self._needs[job.alike] = max(self._needs.get(job.alike, 0), used + BESIDE_TENSORS_BYTES)

    def device(self, place: Place) -> str:
        """How the device of a place is named to a job."""
        gpu, _ = place
        return gpu.replace("cuda", AUTO) if self.falls_back else gpu


def done_in_places(
    pool: Executor,
    jobs: Sequence[Job[What, Result]],
    workers: int,
    places: Places,
    used: Callable[[Result], int | None],
) -> Iterator[tuple[What, Future[Result]]]:
    """Run jobs, `workers` at a time and in order where places are free, and yield each as it ends.

    `used` says of a result what its tensors took of a GPU, bytes.
    """
    waiting = list(jobs)
    running: dict[Future[Result], tuple[Job[What, Result], Place]] = {}
    ended: list[tuple[What, Future[Result]]] = []
    while True:
        for job in list(waiting):
            place = places.take(job) if len(running) < workers else None
            if place is not None:
                waiting.remove(job)
                running[_submitted(pool, job.work, places.device(place))] = (job, place)
        yield from ended
        if not running:
            return
        ended = []
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job, place = running.pop(future)
            places.leave(job, place, used(future.result()) if future.exception() is None else None)
            ended.append((job.what, future))


def _submitted(pool: Executor, work: Callable[[str], Result], device: str) -> Future[Result]:
    """The job on its way; one that failed where the pool has lost a process."""
    try:
        return pool.submit(work, device)
    except BrokenExecutor as error:
        lost: Future[Result] = Future()
        lost.set_exception(error)
        return lost
