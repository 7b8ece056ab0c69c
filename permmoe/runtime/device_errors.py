"""What PyTorch raises when a GPU fails, in words that may leave this machine, and what a run did about it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from permmoe.errors import DeviceUnusable

LOG = logging.getLogger("permmoe.device")
"""What is logged here names no subject and no file."""

OUT_OF_MEMORY = ("CUDA error: out of memory", "HIP error: out of memory", "ALLOC_FAILED")
"""Of errors that PyTorch gives no type of their own: libraries ask the driver for memory, too."""
FAILED = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS")
NO_CODE = "no kernel image is available"


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a GPU was too small for what was asked."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in OUT_OF_MEMORY)


def is_device_failure(error: BaseException) -> bool:
    """Whether a GPU is to blame: it is absent, too small, lost, or not one that this PyTorch can use."""
    if isinstance(error, torch.AcceleratorError | DeviceUnusable) or ran_out_of_memory(error):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in FAILED)


def in_words(error: BaseException) -> str:
    """What happened to the GPU, in a few words that name no file."""
    if isinstance(error, DeviceUnusable):
        return str(error)
    if ran_out_of_memory(error):
        return "its memory is full"
    if NO_CODE in str(error):
        return "this build of PyTorch has no code for it"
    # The driver's own words; a library's may name its files.
    first = str(error).partition("\n")[0]
    return f"it failed ({first})" if first.startswith("CUDA error: ") and "/" not in first else "it failed"


@contextmanager
def device_notes() -> Iterator[list[str]]:
    """What is logged here about devices during the block, by this process: for the card of what is computed in it."""
    notes = _Notes()
    LOG.addHandler(notes)
    try:
        yield notes.lines
    finally:
        LOG.removeHandler(notes)


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.lines.append(record.getMessage())
