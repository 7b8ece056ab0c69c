"""A finished study's numbers in a file of its folder: written once, and held against their model when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from permmoe.config import Configuration
from permmoe.errors import ConfigurationError, DataError
from permmoe.runtime.files import PUBLIC_MODE, write_file

Numbers = TypeVar("Numbers", bound=Configuration)


def write_numbers(path: Path, numbers: Configuration) -> None:
    """Write the numbers; they are on disk when this returns."""
    write_file(path, numbers.model_dump_json(indent=1), mode=PUBLIC_MODE, is_durable=True)


def read_numbers(path: Path, kind: type[Numbers], what: str, lacking: str) -> Numbers:
    """The numbers in a file. Raises ConfigurationError where there are none, DataError where they were damaged.

    `what`, in errors: the study that has its numbers there; `lacking`: what the numbers are called.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"the {what} in {path.parent} has no {lacking} yet; permmoe-server study list shows how it stands"
        ) from None
    except ValidationError as error:
        raise DataError(f"{path} was damaged ({error.error_count()} errors); take it from a back-up") from None
