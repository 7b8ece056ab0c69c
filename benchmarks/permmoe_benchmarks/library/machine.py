"""What a result depends on besides permmoe: the machine, without anything that names it, and the settings' digest."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from typing import Any

import torch

from permmoe.runtime.devices import has_tiles
from permmoe.runtime.provenance import machine


def described_machine() -> dict[str, Any]:
    """The properties of this machine that figures depend on."""
    return {
        "system": machine(), "cores": os.cpu_count(), "instructions": torch.backends.cpu.get_cpu_capability(),
        "has_amx_tiles": has_tiles(), "gpu": torch.cuda.is_available(), "c_library": " ".join(platform.libc_ver()),
    }  # fmt: skip


def settings_digest(settings: Any) -> str:
    """The SHA-256 of settings, which does not depend on the order of keys or on the state of the checkout."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
