"""Run one cell: train a method on a partition with a seed, and keep what the tables need."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from permmoe.data.cache import VolumeCache
from permmoe.data.splits import assign_splits
from permmoe.data.visits import VisitTable
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb
from permmoe.runtime.provenance import machine, versions
from permmoe_simulation.studies.cell_files import is_finished, publish, unfinished_folder, write_outcome
from permmoe_simulation.studies.members import run_members
from permmoe_simulation.studies.partition import Sites, partition, training_sites
from permmoe_simulation.studies.study import Cell


def split_and_partition(visits: VisitTable, cell: Cell) -> tuple[Sites, Sites]:
    """The cell's sites, their visits split into train, validation and test; and the sites left out."""
    table = assign_splits(visits, cell.split)
    return partition(table, cell.modalities, cell.partition, cell.seed)


def run_cell(cell: Cell, visits: VisitTable, cache: Path, folder: Path, device: str = "cpu") -> Path:
    """Run a cell unless `folder` already holds it finished; return `folder`.

    `visits` is the study's whole table. Models at one place are trained on `device`, which is in the card and not in
    the cell's digest: it changes last bits and no meaning. The work is done in a folder of its own, which is renamed
    when it is complete, so that two processes may run the same cell at once.
    """
    if is_finished(folder):
        return folder
    torch.set_num_threads(cell.train.threads or 1)
    work = unfinished_folder(folder)
    started = time.perf_counter()
    # A worker runs many cells, and each card states the peak of its own.
    forget_peak_memory()
    sites, _ = split_and_partition(visits, cell)
    site_of = {visit.subject_id: site for site, table in sites.items() for visit in table}
    write_outcome(work, run_members(cell, sites, VolumeCache(cache), work, device), site_of)
    card = {
        "cell": cell.model_dump(mode="json"),
        "digest": cell.digest(),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "versions": versions(),
        "machine": machine(),
        "device": device,
    }
    if unseen := sorted(set(sites) - set(training_sites(sites))):
        card["unseen_sites"] = unseen
    return publish(work, folder, card)
