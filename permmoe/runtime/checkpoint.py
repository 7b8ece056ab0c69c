"""Tensors and the card that explains them, on disk together: safetensors and JSON, never pickle.

A checkpoint is a folder that appears whole or not at all. The card carries the tensors' digest, so that a file that was
exchanged or damaged is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load
from torch import Tensor

from permmoe.errors import DataError
from permmoe.runtime.checkpoint_card import CARD_FILE, TENSORS_FILE, put_aside, read_checked


def save_checkpoint(folder: Path, state: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one in `folder`. A kill at any moment leaves the old one or the new one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A third of the time of safetensors.torch's, for the same bytes.
    content = save({name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()})
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        _write(new / TENSORS_FILE, content)
        digest = hashlib.sha256(content).hexdigest()
        _write(new / CARD_FILE, json.dumps({**card, "tensors_sha256": digest}, indent=1).encode())
        _exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card. Raises DataError where they are absent, damaged, or do not belong together."""
    content, card = read_checked(folder)
    try:
        return load(content), card
    except SafetensorError:
        raise DataError(f"{folder / TENSORS_FILE} is no safetensors file; take it from a back-up") from None


def join_groups(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all groups in one mapping, under the names `group:name`; no group's name may hold a colon."""
    return {f"{group}:{name}": tensor for group, named in groups.items() for name, tensor in named.items()}


def split_groups(tensors: Mapping[str, Tensor], expected: Iterable[str] = ()) -> dict[str, dict[str, Tensor]]:
    """The inverse of `join_groups`: the tensors by group and name. A group that is expected is there even if empty."""
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in expected}
    for key, tensor in tensors.items():
        group, name = key.split(":", 1)
        groups.setdefault(group, {})[name] = tensor
    return groups


def _exchange(new: Path, folder: Path) -> None:
    """Put `new` where `folder` is. Folders cannot be replaced in one step, so the old one is aside for a moment."""
    old = put_aside(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
