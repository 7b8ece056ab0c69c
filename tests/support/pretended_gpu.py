"""A GPU that is none: PyTorch says that it is there, and what goes to it stays on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

import permmoe.runtime.devices as devices
from permmoe.data.batch import Batch
from permmoe.model import Encoded, PerMMoE


@dataclass
class PretendedGpus:
    """What was asked of them."""

    sent: list[str] = field(default_factory=list)
    """Where models were sent to, in order."""
    error: RuntimeError | None = None
    """Raised by the small product that tells whether a GPU computes."""

    def computes_on(self, device: str) -> bool:
        if self.error:
            raise self.error
        return True


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int = 1) -> PretendedGpus:
    """Let this process have GPUs until the test ends."""
    gpus = PretendedGpus()

    def to(model: PerMMoE, device: object) -> PerMMoE:
        gpus.sent.append(str(device))
        return model

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(devices, "computes_on", gpus.computes_on)
    monkeypatch.setattr(PerMMoE, "to", to)
    return gpus


def limit_memory(monkeypatch: pytest.MonkeyPatch, visits: int, after: int = 0) -> list[int]:
    """Let no model encode more visits at a time, `after` so many batches; returns the sizes that are asked for."""
    asked: list[int] = []
    encode = PerMMoE.encode

    def limited(model: PerMMoE, batch: Batch, *, recompute: bool = False) -> Encoded:
        asked.append(len(batch.baseline))
        if len(asked) > after and len(batch.baseline) > visits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(model, batch, recompute=recompute)

    monkeypatch.setattr(PerMMoE, "encode", limited)
    return asked
