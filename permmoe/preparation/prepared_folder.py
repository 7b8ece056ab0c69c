"""The folder of prepared images: a BIDS-derivatives dataset in which one process works at a time."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import permmoe
from permmoe.errors import DataError, TryAgainLater
from permmoe.runtime.files import UNFINISHED_PREFIX, write_file

DESCRIPTION = "dataset_description.json"
LOCK = ".lock"


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Make `out` a folder of prepared images, or see that it is one, and hold it until the block ends.

    What a killed process left unfinished is removed. Raises DataError where the folder is somebody else's, and
    TryAgainLater where another process works in it.
    """
    _claim(out)
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgainLater(
                f"another process prepares images into {out}; run the same again once it has ended",
                for_log="another process prepares images into the same folder",
            ) from None
        _remove_unfinished(out)
        yield


def describe(out: Path, *, is_synthetic: bool) -> None:
    """Write BIDS's description of the folder; images of invented subjects are called so, for all who read them."""
    content: dict[str, object] = {
        "Name": "Brain images prepared for permmoe",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "permmoe", "Version": permmoe.__version__}],
    }
    if is_synthetic:
        content["SYNTHETIC"] = True
    write_file(out / DESCRIPTION, json.dumps(content, indent=2) + "\n")


def _claim(out: Path) -> None:
    description = out / DESCRIPTION
    if description.is_file():
        if '"permmoe"' not in description.read_text(errors="replace"):
            raise DataError(f"{out} holds another data set; name a new folder for the prepared images")
    elif out.exists() and (not out.is_dir() or any(not _is_unfinished(path) for path in out.iterdir())):
        raise DataError(f"{out} is not empty and holds no prepared images; name a new or an empty folder")
    else:
        describe(out, is_synthetic=False)


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(UNFINISHED_PREFIX)


def _remove_unfinished(out: Path) -> None:
    for path in list(out.rglob(f"{UNFINISHED_PREFIX}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
