"""Visits that every test of a training may read, made once."""

from __future__ import annotations

import pytest

from permmoe.data.dataset import VisitData
from tests.support.small_training import CONFIG
from tests.support.small_visits import small_visits


@pytest.fixture(scope="session")
def visits() -> VisitData:
    """Visits to train on."""
    return small_visits(CONFIG, 23)


@pytest.fixture(scope="session")
def held_out() -> VisitData:
    """Visits to validate on."""
    return small_visits(CONFIG, 11, seed=1)
