"""Where tensors are computed, and the random numbers of that place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from permmoe.errors import ConfigurationError, DeviceUnusable
from permmoe.runtime.device_errors import LOG, in_words, is_device_failure

T = TypeVar("T")
AUTO, CPU = "auto", "cpu"


def training_device(name: str, *, gains_from_gpu: bool = True) -> str:
    """The device of that name. `auto` is a GPU where there is one that computes and the model's encoder gains from it
    (`EncoderKind.gains_from_gpu`), else the CPU; a GPU that does not compute is logged. `auto:1` is cuda:1 or the CPU.

    Raises ConfigurationError for a name that is none, and DeviceUnusable for a GPU that is absent or does not compute.
    """
    if may_fall_back(name):
        return _chosen(name.replace(AUTO, "cuda", 1), gains_from_gpu)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (why := why_unusable(name)):
        raise DeviceUnusable(f"device {name}: {why}; mend that, or use cpu or auto")
    return name


def may_fall_back(name: str) -> bool:
    """Whether the CPU may take the place of a GPU, by the name that a person gave."""
    return name.partition(":")[0] == AUTO


def _chosen(gpu: str, gains_from_gpu: bool) -> str:
    if not gains_from_gpu or not torch.cuda.is_available():
        return CPU
    why = why_unusable(gpu)
    if why:
        LOG.warning("the GPU cannot be used: %s; the CPU takes its place", why)
    return CPU if why else gpu


def why_unusable(gpu: str) -> str:
    """Why a GPU cannot be used, in words that name no file; empty where it computes."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of PyTorch is for CPUs alone"
    if not torch.cuda.is_available():
        return _why_none()
    there, index = torch.cuda.device_count(), torch.device(gpu).index or 0
    if index >= there:
        return f"PyTorch sees {there} GPU(s), the last of them cuda:{there - 1}"
    try:
        return "" if computes_on(gpu) else "it computes wrongly"
    except RuntimeError as error:
        return in_words(error)


def _why_none() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        if "too old" in str(error):
            return "the GPU's driver is too old for this build of PyTorch"
        if "no NVIDIA driver" in str(error):
            return "there is no NVIDIA driver"
    return "PyTorch sees no GPU"


def computes_on(device: str) -> bool:
    """Whether a small product is right there. Raises RuntimeError."""
    square = torch.full((3, 3), 2.0, device=device)
    return bool((square @ square).sum().item() == 108.0)


def free_gpu_bytes(only: str | None = None) -> tuple[dict[str, int], str]:
    """The free memory of every GPU that computes, or of one by its name; and why the first other one does not."""
    every = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]
    free, why = {}, ""
    for gpu in [only] if only else every:
        if reason := why_unusable(gpu):
            why = why or f"{gpu}: {reason}"
        else:
            free[gpu] = torch.cuda.mem_get_info(gpu)[0]
    return free, why


def peak_gpu_bytes(device: str) -> int | None:
    """The most of a GPU's memory that PyTorch held for this process, which no other one can have; None without one."""
    if not device.startswith("cuda") or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    return torch.cuda.max_memory_reserved(device)


def on_device(device: str, work: Callable[[str], T], *, falls_back: bool) -> T:
    """What `work` returns, given the device; where a GPU fails and the CPU may take its place, begun anew there.

    `work` has to begin with nothing that is on a device. Raises DeviceUnusable where a GPU fails and may not be
    replaced; any other error as it is.
    """
    try:
        return work(device)
    except (RuntimeError, DeviceUnusable) as error:
        if device == CPU or not is_device_failure(error):
            raise
        why = in_words(error)
        if not falls_back:
            if isinstance(error, DeviceUnusable):
                raise
            raise DeviceUnusable(
                f"device {device}: {why}; mend that, see nvidia-smi, or use auto, which falls back to the CPU"
            ) from None
    # Outside of the block: the error holds on to what it was raised in, and that to memory of the GPU.
    LOG.warning("the GPU cannot be used: %s; the CPU takes its place", why)
    return work(CPU)


def device_of(model: torch.nn.Module) -> torch.device:
    """The device that the model's parameters are on."""
    return next(model.parameters()).device


def has_tiles() -> bool:
    """Whether this CPU has AMX tiles, without which its bf16 is slower than its fp32."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of the CPU and of the device follow from the seed; after the block they go on as if undisturbed.

    On the CPU they are those of torch.manual_seed, which does more: it seeds every kind of device that PyTorch knows
    of, at a third of a small training step's time.
    """
    gpus = [device] if device and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
