"""The machine that the preflight runs on: clock, name service, sockets, limits. Tests bring their own."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch

from permmoe.errors import DeviceUnusable
from permmoe.runtime.devices import AUTO, CPU, training_device, why_unusable
from permmoe.runtime.text import size_text

DISTRIBUTION = "permmoe"


def _resolve(host: str, port: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _connect(host: str, port: int, seconds: float) -> socket.socket:
    return socket.create_connection((host, port), timeout=seconds)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _requirements() -> Sequence[str]:
    try:
        return requires(DISTRIBUTION) or ()
    except PackageNotFoundError:
        return ()


def _memory_bytes() -> int:
    """What programs can still have, as Linux estimates it; elsewhere all that the machine has."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _umask() -> int:
    """The mask can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _is_clock_synchronised() -> bool | None:
    """What systemd says; None where there is no systemd."""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(answer)


def _compute(name: str) -> str:
    """Where a small product was computed, as a round would choose. Raises ConfigurationError or RuntimeError."""
    if name == AUTO and (why := why_unusable("cuda")):
        if torch.cuda.is_available():
            raise DeviceUnusable(why)
        return f"{CPU}; {why}"
    device = training_device(name)
    if not device.startswith("cuda"):
        return device
    free, total = torch.cuda.mem_get_info(device)
    there = f"{torch.cuda.get_device_name(device)}, {size_text(free)} of {size_text(total)} free"
    return f"{there}, for encoders that are faster there; for others the CPU" if name == AUTO else there


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


@dataclass(frozen=True)
class Surroundings:
    """Everything that the checks ask the machine; the defaults are the machine itself."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    resolve: Callable[[str, int], Sequence[str]] = _resolve
    """Addresses of a host. Raises OSError."""
    connect: Callable[[str, int, float], socket.socket] = _connect
    """Host, port, seconds. Raises OSError."""
    python: Callable[[], str] = platform.python_version
    installed: Callable[[str], str | None] = _installed
    requirements: Callable[[], Sequence[str]] = _requirements
    """The requirements of this software, as its package declares them."""
    memory_bytes: Callable[[], int] = _memory_bytes
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    threads: Callable[[], int] = _threads
    open_files: Callable[[], int] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    core_bytes: Callable[[], int] = lambda: resource.getrlimit(resource.RLIMIT_CORE)[0]
    umask: Callable[[], int] = _umask
    user: Callable[[], int] = os.geteuid
    owner: Callable[[Path], int] = lambda file: file.stat().st_uid
    is_writable: Callable[[Path], bool] = _is_writable
    is_clock_synchronised: Callable[[], bool | None] = _is_clock_synchronised
    compute: Callable[[str], str] = _compute
