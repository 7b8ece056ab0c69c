"""A cell whose models are ready to be fitted: one by one, or beside those of other cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from permmoe.training.stacked_fit import Fit
from permmoe_simulation.studies.cell_files import CellOutcome


def _nothing() -> None:
    """What is done at once with a model that is judged with the whole cell."""


@dataclass(frozen=True)
class PreparedFit:
    """A model that is ready to be fitted, and what is done with it as soon as it is."""

    fit: Fit
    judge: Callable[[], None] = _nothing


@dataclass(frozen=True)
class PreparedCell:
    """The fits of a cell, and what comes out once all are done."""

    fits: Iterator[PreparedFit]
    """Made as they are asked for, so that one by one the visits of one site are in memory at a time."""
    outcome: Callable[[], CellOutcome]
