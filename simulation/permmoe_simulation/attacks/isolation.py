"""Linear algebra on released sums: which groups can be singled out, whatever the sums are of.

A row of the incidence matrix is a released sum, a column a member (a patient, or a site). Whoever holds the sums can
form any combination of rows. Members with equal columns cannot be told apart; such a group is isolated where some
combination of rows is 1 on it and 0 everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

Sets = Sequence[frozenset[str]]
"""The members behind each released sum."""
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Isolated:
    """Members that one combination of the sums is about, and nobody else."""

    members: frozenset[str]
    weights: Float[np.ndarray, " sum"]
    """What each released sum is multiplied with."""


def isolated_groups(sets: Sets) -> list[Isolated]:
    """Every group of members without a difference that can be singled out, by the least squares solution."""
    groups, columns = _groups(sets)
    wanted = np.eye(len(groups))
    weights = np.linalg.lstsq(columns.T, wanted, rcond=None)[0]
    errors = np.abs(columns.T @ weights - wanted).max(axis=0, initial=0.0)
    return [Isolated(group, weights[:, i]) for i, group in enumerate(groups) if errors[i] < TOLERANCE]


def smallest_support(sets: Sets, below: int) -> int | None:
    """The fewest members that a combination of the sums is about; None where that is `below` or more.

    Exhaustive over unions of groups: the rank falls when the columns of such members are left out. The number of small
    groups must be small.
    """
    groups, columns = _groups(sets)
    if not groups:
        return None
    rank = np.linalg.matrix_rank(columns)
    sizes = [len(group) for group in groups]
    for few in sorted(_unions(sizes, below), key=lambda few: sum(sizes[i] for i in few)):
        if np.linalg.matrix_rank(np.delete(columns, few, axis=1)) < rank:
            return sum(sizes[i] for i in few)
    return None


def _groups(sets: Sets) -> tuple[list[frozenset[str]], Float[np.ndarray, "sum group"]]:
    """The groups, and the incidence matrix with one column a group."""
    members = sorted(frozenset().union(*sets))
    by_column: dict[tuple[bool, ...], list[str]] = {}
    for member in members:
        by_column.setdefault(tuple(member in one for one in sets), []).append(member)
    columns = np.array(list(by_column), float).reshape(len(by_column), len(sets)).T
    return [frozenset(group) for group in by_column.values()], columns


def _unions(sizes: Sequence[int], below: int) -> Iterator[tuple[int, ...]]:
    """All sets of groups that hold fewer than `below` members together."""
    small = [i for i, n in enumerate(sizes) if n < below]
    for n in range(1, below):
        yield from (few for few in combinations(small, n) if sum(sizes[i] for i in few) < below)
