"""Training where a step's batch does not fit into the memory of a GPU: begun anew with fewer visits computed at a time.

Gradients of micro-batches add up to the batch's, but for the balance loss (permmoe.training.losses), so that the model
is the same up to rounding, that loss, and other random numbers in dropout and router noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from permmoe.config import TrainConfig
from permmoe.errors import DeviceUnusable
from permmoe.runtime.device_errors import LOG, ran_out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Fitted(Generic[T]):
    """What was computed, and with how many visits at a time."""

    found: T
    visits_at_once: int


def within_memory(visits_at_once: int, work: Callable[[int], T], begin_anew: Callable[[], None]) -> Fitted[T]:
    """What `work` returns, given how many visits it may compute at a time: half as many again and again until it fits.

    `begin_anew` undoes whatever an attempt did, so that no step counts twice. One line of the log says what happened.
    Raises DeviceUnusable where the memory does not hold even a single visit's step; other errors as they are.
    """
    size = visits_at_once
    while True:
        try:
            found = work(size)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
        else:
            if size < visits_at_once:
                LOG.warning(
                    "the GPU's memory does not hold a step of %d visits: begun anew with %d at a time",
                    visits_at_once,
                    size,
                )
            return Fitted(found, size)
        # Outside of the block: the error holds on to what it was raised in, and that to the memory.
        torch.cuda.empty_cache()
        if size == 1:
            raise DeviceUnusable(
                "the GPU's memory does not hold the step of a single visit; end what else uses it, set "
                "train.checkpoint_encoders, choose a coarser grid, or use the CPU"
            )
        size = -(-size // 2)
        begin_anew()


def visits_of_a_step(config: TrainConfig) -> int:
    """How many visits the configuration lets a step compute at a time."""
    return min(config.micro_batch or config.batch_size, config.batch_size)


def at_a_time(config: TrainConfig, visits: int) -> TrainConfig:
    """The same training with at most so many visits computed at a time."""
    return config if visits >= visits_of_a_step(config) else config.model_copy(update={"micro_batch": visits})
