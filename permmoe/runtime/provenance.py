"""What made a result: versions and machine, kept beside every checkpoint, table and figure."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

PACKAGES = ("permmoe", "torch", "flwr", "monai", "nibabel", "nilearn", "numpy", "pandas", "scikit-learn")


def versions() -> dict[str, str]:
    """Version of Python and of each package that a result depends on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


_version = cache(version)
"""Looked up once in a process: every checkpoint needs it, and a look-up searches the disk."""


def machine() -> str:
    """Operating system and processor architecture; nothing that names the machine."""
    return f"{platform.system()} {platform.machine()}"
