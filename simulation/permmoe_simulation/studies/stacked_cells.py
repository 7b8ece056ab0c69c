"""Cells whose models are trained side by side: seeds, members of ensembles and hospitals of one method.

Small models leave a GPU idle, for its time goes into starting operations; in a stack each is started once for all
models (permmoe.training.stack). A model draws other random numbers in a stack than by itself, so that a cell's results
are those of another training seed; which way a cell went, its card says. Cells of a stack are finished together: one
that is killed begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import torch

from permmoe.data.cache import VolumeCache
from permmoe.data.visits import VisitTable
from permmoe.runtime.device_errors import LOG, device_notes, ran_out_of_memory
from permmoe.runtime.devices import may_fall_back, on_device, training_device
from permmoe.runtime.process_memory import forget_peak_memory
from permmoe.training.stack import without_scales
from permmoe.training.stacked_epochs import why_not_stacked
from permmoe.training.stacked_fit import fit_stacked
from permmoe_simulation.studies.cell import Ended, card_of, run_cells, split_and_partition
from permmoe_simulation.studies.cell_files import CellOutcome, publish, unfinished_folder, write_outcome
from permmoe_simulation.studies.members import averaged, member_cells
from permmoe_simulation.studies.method_kinds import METHOD_KINDS
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.prepared_cell import PreparedFit
from permmoe_simulation.studies.study import Cell

MOST_AT_ONCE = 64
"""Models of one stack: with more, memory grows and no time is saved."""


def in_stacks(cells: Sequence[tuple[str, Cell]]) -> list[list[tuple[str, Cell]]]:
    """The named cells, those together that can be trained side by side: of one method and regime. Others by
    themselves."""
    stacks: dict[Hashable, list[tuple[str, Cell]]] = {}
    for name, cell in cells:
        key = (name, cell.regime) if METHOD_KINDS[cell.method.kind].preparer else (name, cell.regime, cell.seed)
        stacks.setdefault(key, []).append((name, cell))
    return list(stacks.values())


def run_cells_together(
    cells: Sequence[Cell], visits: VisitTable, cache: Path, folders: Sequence[Path], device: str
) -> list[Ended]:
    """Run cells of one method and regime, none of which is finished; return their folders.

    Arguments are those of `run_cell`, and so is what is raised where the stack fails. Cells whose models cannot be
    stacked, or do not fit into the memory of a GPU together, are run one after the other (`run_cells`).
    """
    if not METHOD_KINDS[cells[0].method.kind].preparer:
        return run_cells(cells, visits, cache, folders, device)
    torch.set_num_threads(cells[0].train.threads or 1)
    started = time.perf_counter()
    forget_peak_memory()
    sites = [split_and_partition(visits, cell)[0] for cell in cells]

    def begun(on: str) -> tuple[list[CellOutcome] | None, str]:
        try:
            return _outcomes(cells, sites, VolumeCache(cache), on), on
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
        # Outside of the block: the error holds on to what it was raised in, and that to the memory.
        LOG.warning("the GPU's memory does not hold %d cells side by side: they are run one by one", len(cells))
        return None, on

    with device_notes() as notes:
        # Side by side, models of every encoder gain.
        chosen = training_device(device, gains_from_gpu=True)
        outcomes, used = on_device(chosen, begun, falls_back=may_fall_back(device))
    if outcomes is None:
        return run_cells(cells, visits, cache, folders, device)
    seconds = (time.perf_counter() - started) / len(cells)
    for cell, own, outcome, folder in zip(cells, sites, outcomes, folders, strict=True):
        work = unfinished_folder(folder)
        write_outcome(work, outcome, {visit.subject_id: site for site, table in own.items() for visit in table})
        publish(work, folder, card_of(cell, own, seconds, used, notes) | {"cells_side_by_side": len(cells)})
    return list(folders)


def _outcomes(
    cells: Sequence[Cell], sites: Sequence[Sites], cache: VolumeCache, device: str
) -> list[CellOutcome] | None:
    """What came out of every cell; None where their models cannot be stacked."""
    kind = METHOD_KINDS[cells[0].method.kind]
    members = [member_cells(cell) for cell in cells]
    prepared = [
        [kind.prepare(member, own, cache, device) for member in of_cell]
        for of_cell, own in zip(members, sites, strict=True)
    ]
    flat = [
        (member, one)
        for of_cell, ready in zip(members, prepared, strict=True)
        for member, cell in zip(of_cell, ready, strict=True)
        for one in cell.fits
    ]
    for stack in _stacks(flat):
        fits, train = [one.fit for _, one in stack], stack[0][0].train
        if why_not_stacked(fits[0].model, [one.train for one in fits], train):
            return None
        fit_stacked(fits, train)
    for _, one in flat:
        one.judge()
    return [averaged([member.outcome() for member in ready]) for ready in prepared]


def _stacks(fits: Sequence[tuple[Cell, PreparedFit]]) -> Iterator[list[tuple[Cell, PreparedFit]]]:
    """Fits whose models and settings are alike, so many at a time."""
    alike: dict[Hashable, list[tuple[Cell, PreparedFit]]] = {}
    for cell, one in fits:
        settings = cell.train.model_copy(update={"seed": 0})
        key = without_scales(one.fit.model.config).canonical_json(), settings.canonical_json()
        alike.setdefault(key, []).append((cell, one))
    for stack in alike.values():
        for start in range(0, len(stack), MOST_AT_ONCE):
            yield stack[start : start + MOST_AT_ONCE]
