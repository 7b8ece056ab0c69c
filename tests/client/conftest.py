"""A hospital whose preflight finds nothing wrong; each test spoils a copy of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.preflight_hospital import (
    Hospital,
    Kit,
    copy_hospital,
    new_kit,
    serving,
    write_hospital,
)


@pytest.fixture(scope="module")
def kit() -> Kit:
    return new_kit()


@pytest.fixture(scope="module")
def template(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("preflight")
    with serving(folder, kit.server, (kit.authority,)) as server:
        write_hospital(folder / "good", kit, server.port)
        yield folder / "good"


@pytest.fixture
def hospital(template: Path, kit: Kit, tmp_path: Path) -> Iterator[Hospital]:
    with ExitStack() as stack:
        yield Hospital(copy_hospital(template, tmp_path / "site"), kit, stack)
