"""The card beside a checkpoint's tensors, checked without PyTorch: listing or copying models needs no other import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from permmoe.errors import DataError

TENSORS_FILE = "tensors.safetensors"
CARD_FILE = "card.json"


def read_checked(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The tensors' bytes and the card. Raises DataError where they are absent, damaged, or do not belong together."""
    source = folder if folder.exists() else put_aside(folder)
    try:
        card = json.loads((source / CARD_FILE).read_text())
        content = (source / TENSORS_FILE).read_bytes()
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise DataError(f"no checkpoint in {folder}: {missing} is missing; name the folder that holds it") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); name a checkpoint's folder") from None
    except ValueError:
        raise DataError(f"{source / CARD_FILE} is damaged; take the folder from a back-up, or train again") from None
    if not isinstance(card, dict) or card.get("tensors_sha256") != hashlib.sha256(content).hexdigest():
        raise DataError(f"card and tensors in {folder} do not belong together; take both from one back-up")
    return content, card


def says_synthetic(card: Mapping[str, Any]) -> bool:
    """Whether a model was trained on invented patients: its own card says so, or the plan of its federated study."""
    plan = card.get("plan")
    return card.get("is_synthetic") is True or (isinstance(plan, dict) and plan.get("is_synthetic") is True)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to load, the one that a kill left aside included."""
    return (folder / CARD_FILE).exists() or (put_aside(folder) / CARD_FILE).exists()


def put_aside(folder: Path) -> Path:
    """The folder of the old checkpoint while a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")
