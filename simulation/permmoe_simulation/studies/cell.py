"""Run one cell: train a method on a partition with a seed, and keep what the tables need."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from permmoe.data.cache import VolumeCache
from permmoe.data.splits import assign_splits
from permmoe.data.visits import VisitTable
from permmoe.runtime.device_errors import device_notes
from permmoe.runtime.devices import CPU, may_fall_back, on_device, peak_gpu_bytes, training_device
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb
from permmoe.runtime.provenance import machine, versions
from permmoe_simulation.studies.cell_files import CARD, is_finished, publish, unfinished_folder, write_outcome
from permmoe_simulation.studies.members import run_members
from permmoe_simulation.studies.method_kinds import METHOD_KINDS
from permmoe_simulation.studies.partition import Sites, partition, training_sites
from permmoe_simulation.studies.study import Cell

Ended = Path | Exception
"""The folder of a finished cell, or the error that ended one."""


def split_and_partition(visits: VisitTable, cell: Cell) -> tuple[Sites, Sites]:
    """The cell's sites, their visits split into train, validation and test; and the sites left out."""
    table = assign_splits(visits, cell.split)
    return partition(table, cell.modalities, cell.partition, cell.seed)


def wants_gpu(cells: Sequence[Cell], device: str) -> bool:
    """Whether cells that are run together run on a GPU where there is one: they train something and, at auto, do so
    faster there, as several models side by side do."""
    first = cells[0]
    return METHOD_KINDS[first.method.kind].is_trained and (not may_fall_back(device) or _gains(first) or len(cells) > 1)


def gpu_memory_key(cells: Sequence[Cell]) -> Hashable:
    """Cells of which this is equal need about as much memory of a GPU; on Ray none says what its clients took."""
    cell = cells[0]
    is_private = cell.federation.privacy is not None
    size = cell.train.batch_size, cell.train.micro_batch, is_private, len(cells)
    return cell.model.encoder, cell.model.grid, cell.engine, size


def gpu_bytes_of(ended: Sequence[Ended]) -> int | None:
    """The most that the tensors of finished cells took of a GPU's memory, with what PyTorch kept for the next ones."""
    cards = [json.loads((folder / CARD).read_text()) for folder in ended if isinstance(folder, Path)]
    return max((int(card["gpu_memory_mb"] * 1e6) for card in cards if "gpu_memory_mb" in card), default=None)


def _gains(cell: Cell) -> bool:
    return cell.model.encoder.declaration.gains_from_gpu


def run_cell(cell: Cell, visits: VisitTable, cache: Path, folder: Path, device: str = CPU) -> Path:
    """Run a cell unless `folder` already holds it finished; return `folder`.

    `visits` is the study's whole table. Models are trained on `device`, which is in the card and not in the cell's
    digest: it changes last bits and no meaning. The work is done in a folder of its own, which is renamed when it is
    complete, so that two processes may run the same cell at once.

    A cell whose GPU fails begins anew on the CPU where `device` is auto; else DeviceUnusable is raised. The card says
    what happened.
    """
    if is_finished(folder):
        return folder
    torch.set_num_threads(cell.train.threads or 1)
    started = time.perf_counter()
    # A worker runs many cells, and each card states the peak of its own.
    forget_peak_memory()
    sites, _ = split_and_partition(visits, cell)
    site_of = {visit.subject_id: site for site, table in sites.items() for visit in table}

    def begun(on: str) -> tuple[Path, str]:
        work = unfinished_folder(folder)
        write_outcome(work, run_members(cell, sites, VolumeCache(cache), work, on), site_of)
        return work, on

    with device_notes() as notes:
        chosen = training_device(
            device if METHOD_KINDS[cell.method.kind].is_trained else CPU, gains_from_gpu=_gains(cell)
        )
        work, used = on_device(chosen, begun, falls_back=may_fall_back(device))
    return publish(work, folder, card_of(cell, sites, time.perf_counter() - started, used, notes))


def run_cells(
    cells: Sequence[Cell], visits: VisitTable, cache: Path, folders: Sequence[Path], device: str = CPU
) -> list[Ended]:
    """`run_cell` for one cell after the other, those behind one that fails as well."""
    return [_ended(cell, visits, cache, folder, device) for cell, folder in zip(cells, folders, strict=True)]


def _ended(cell: Cell, visits: VisitTable, cache: Path, folder: Path, device: str) -> Ended:
    try:
        return run_cell(cell, visits, cache, folder, device)
    except Exception as error:
        return error


def card_of(cell: Cell, sites: Sites, seconds: float, device: str, notes: Sequence[str]) -> dict[str, Any]:
    """What is written of a cell beside its results."""
    card = {
        "cell": cell.model_dump(mode="json"),
        "digest": cell.digest(),
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "versions": versions(),
        "machine": machine(),
        "device": device,
    }
    if notes:
        card["device_notes"] = list(notes)
    # Of clients on Ray this process sees nothing.
    if cell.engine != "ray" and (held := peak_gpu_bytes(device)):
        card["gpu_memory_mb"] = round(held / 1e6, 1)
    if unseen := sorted(set(sites) - set(training_sites(sites))):
        card["unseen_sites"] = unseen
    return card
