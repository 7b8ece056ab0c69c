"""An ensemble inside a cell: the method is trained once for each member, and what members predict is averaged."""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from permmoe.data.cache import VolumeCache
from permmoe.ensemble import mixture_spread
from permmoe.training.seeds import member_seed
from permmoe_simulation.studies.cell_files import FEDERATION, CellOutcome, Matrix, Predicted, Rows
from permmoe_simulation.studies.method_kinds import METHOD_KINDS
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.study import Cell
from permmoe_simulation.study_tables import ROUND_PARTS, SITE_TIMES

COSTS_OF_SITE = ("bytes_down", "bytes_up", *SITE_TIMES, "server_seconds", "modules")
"""Columns of `rounds.csv` that are a site's own."""
COSTS_OF_ROUND = ("round_seconds", *(f"{part}_seconds" for part in ROUND_PARTS))
"""Columns of `rounds.csv` that are about the whole round, and the same for each of its sites."""


def member_cells(cell: Cell) -> list[Cell]:
    """The cell of each member, which differ in the seed of the training alone: splits and sites are the same."""
    seeds = [member_seed(cell.train.seed, member) for member in range(cell.method.members)]
    return [cell.model_copy(update={"train": cell.train.model_copy(update={"seed": seed})}) for seed in seeds]


def run_members(cell: Cell, sites: Sites, cache: VolumeCache, folder: Path, device: str) -> CellOutcome:
    """Run the cell's method once for each member, one after the other, and average what they predict.

    The files of a member that is done are deleted, as those of a cell are.
    """
    kind = METHOD_KINDS[cell.method.kind]
    if cell.method.members == 1:
        alone: CellOutcome = kind.run(cell, sites, cache, folder, device)
        return alone
    outcomes: list[CellOutcome] = []
    for number, own in enumerate(member_cells(cell)):
        place = folder / FEDERATION / f"member-{number}"
        place.mkdir(parents=True)
        outcomes.append(kind.run(own, sites, cache, place, device))
        shutil.rmtree(place)
    return averaged(outcomes)


def averaged(outcomes: Sequence[CellOutcome]) -> CellOutcome:
    """What an ensemble did: the mean of what its members predict, the spread of their mixture where they predict one,
    and the sum of what they cost.

    A prediction that a member lacks the ensemble lacks. Learning, activation and the account of protection are the
    first member's: experts of the same number in two members are different experts, and no curve is that of a mean.
    Raises ValueError for members that judged different visits.
    """
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    test = _mean([Predicted(outcome.test, outcome.predictions, outcome.spread) for outcome in outcomes])
    calibration = [outcome.calibration for outcome in outcomes if outcome.calibration is not None]
    return replace(
        first,
        predictions=test.predictions,
        spread=test.spread,
        rounds=added_costs([outcome.rounds for outcome in outcomes]),
        calibration=_mean(calibration) if len(calibration) == len(outcomes) else None,
    )


def _mean(members: Sequence[Predicted]) -> Predicted:
    subjects = {tuple(visit.subject_id for visit in member.visits) for member in members}
    if len(subjects) > 1:
        raise ValueError("members of an ensemble have to judge the same visits in the same order")
    predictions = [member.predictions for member in members]
    spreads = [member.spread for member in members if member.spread is not None]
    spread = _of_mixture(spreads, predictions) if len(spreads) == len(members) else None
    return Predicted(members[0].visits, np.mean(predictions, axis=0), spread)


def _of_mixture(spreads: Sequence[Matrix], predictions: Sequence[Matrix]) -> Matrix:
    """As a trained ensemble predicts it: permmoe.ensemble."""
    by_member = [torch.from_numpy(np.stack(own, axis=2).reshape(-1, len(own))) for own in (spreads, predictions)]
    return mixture_spread(*by_member).numpy().reshape(spreads[0].shape)


def added_costs(members: Sequence[Rows]) -> Rows:
    """One row for each round and site, as of one federation that trains all members one after the other."""
    rows: dict[Hashable, dict[str, Any]] = {}
    rounds: dict[int, dict[str, float]] = {}
    for member in members:
        of_round = {row["round"]: row for row in member}
        for number, row in of_round.items():
            total = rounds.setdefault(number, dict.fromkeys(COSTS_OF_ROUND, 0.0))
            rounds[number] = {name: round(total[name] + row[name], 6) for name in COSTS_OF_ROUND}
        for row in member:
            so_far = rows.get((row["round"], row["site"]))
            costs = {name: row[name] + (so_far[name] if so_far else 0) for name in COSTS_OF_SITE}
            rows[row["round"], row["site"]] = (so_far or row) | costs
    return [row | rounds[row["round"]] for row in sorted(rows.values(), key=lambda row: row["round"])]
