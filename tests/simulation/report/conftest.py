"""Studies that the tests of the report share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.report_page import page_of
from tests.support.study_files import write_axis, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return page_of(study)


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("permmoe", "flexmoe", "local", "null")
    folder = tmp_path_factory.mktemp("small")
    return write_study(
        folder, methods=names, modalities=("t1", "tau"), n_experts=3, n_sites=3, seeds=(5, 7, 11, 13, 17)
    )


@pytest.fixture
def small(small_study: Path, tmp_path: Path) -> Iterator[Path]:
    """A study of two modalities that a test may change."""
    yield Path(shutil.copytree(small_study, tmp_path / "small"))


VALUES = {"ten": 10.0, "hundred": 100.0, "thousand": 1000.0}


@pytest.fixture
def along(tmp_path: Path) -> Path:
    folder = write_study(tmp_path, methods=("permmoe", "flexmoe"), regimes=tuple(VALUES), n_sites=3)
    write_axis(folder, VALUES, "sites", "log")
    return folder
