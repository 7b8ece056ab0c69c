"""Whether two checkouts compute the same, bit by bit: the test of a refactoring.

    python benchmarks/same_bits.py --out /tmp/before                       # in the checkout before the change
    python benchmarks/same_bits.py --out /tmp/after --against /tmp/before  # in the checkout with the change

Each run trains the study configs/studies/every-variant.yaml with simulation/run.py of the checkout that the script
stands in, in a few minutes, and writes digests to `digests.json` in its folder. They cover the settings of every cell,
its predictions and expert activations, all tables (rounds, bytes, privacy, results and the rest) without columns of
times, memory and ledger entries, and the weights of some federations at their end. Ledger entries are signed with new
keys in every run; so are messages of some federations, whose bytes are left out, too. With `--against` the differences
are printed, and the exit status is 1 where there are any.

    python benchmarks/same_bits.py --digests /tmp/after --against /tmp/before   # compares and runs nothing

The same bits are promised on the same machine with the same versions of all packages and one thread.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from permmoe.config import read_config
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.runtime.command_line import run
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_benchmarks.library.cohort import QUIET
from permmoe_benchmarks.library.own_process import ONE_THREAD
from permmoe_benchmarks.library.scale import ROOT
from permmoe_simulation.engines.federated_training import train_federation
from permmoe_simulation.studies.cell import split_and_partition
from permmoe_simulation.studies.simulate import cell_name
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import StudyConfig, cells, data_source

STUDY = ROOT / "configs" / "studies" / "every-variant.yaml"
DIGESTS = "digests.json"
WEIGHED_METHODS = ("plain", "fedadam", "secure")
"""The methods of the study whose weights are compared too; a study keeps predictions and no weights."""
CHANGING_COLUMNS = ("seconds", "_mb", "ledger")
"""Columns with one of these in their name differ from run to run."""

SIGNED = ("bytes_down",)
"""Columns of rounds in which messages carry signatures, whose length is a few bytes more or less from run to run."""

Digests = Mapping[str, str]
"""The SHA-256 of each thing that a study computed, by its name."""

console = Console(highlight=False, soft_wrap=True)


def same_bits(
    out: Annotated[Path, typer.Option(help="Folder of the run; it is made anew.")] = Path("runs/same-bits"),
    against: Annotated[Path | None, typer.Option(help="Folder of the run to compare with.")] = None,
    digests: Annotated[
        Path | None, typer.Option(help="Folder of a run that is done; nothing is run, and --against is needed.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cells at a time, each on one core.")] = os.cpu_count() or 1,
) -> None:
    """Digest everything that a small study computes, and say what differs from an earlier run."""
    if digests and not against:
        raise ConfigurationError("--digests compares two runs; name the other one with --against")
    earlier = read_digests(against) if against else None
    found = read_digests(digests) if digests else run_and_digest(out, workers)
    if not digests:
        console.print(f"{len(found)} digests are in {out / DIGESTS}")
    if earlier is None:
        return
    different = differences(earlier, found)
    for line in different:
        console.print(line)
    console.print(
        f"{len(different)} of {len({*earlier, *found})} digests differ" if different else "all bits are equal"
    )
    if different:
        raise typer.Exit(1)


def run_and_digest(out: Path, workers: int) -> Digests:
    """Run the study in a new folder `out`, and write and return its digests.

    Raises ConfigurationError for a folder that holds something else, PermmoeError where the study fails.
    """
    if out.exists() and any(out.iterdir()) and not (out / "study").exists():
        raise ConfigurationError(f"{out} is not empty and holds no earlier run; name another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    # A cohort of its own, so that its bits are compared too.
    command = [sys.executable, str(ROOT / "simulation" / "run.py"), str(STUDY), "--out", str(out / "study")]
    command += ["--shared", str(out / "shared"), "--workers", str(workers)]
    console.print(f"running {STUDY.name} in {out}, some minutes")
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise PermmoeError(f"the study failed:\n{(done.stdout + done.stderr)[-2000:]}")
    found = {**study_digests(out / "study"), **weight_digests(out / "shared")}
    write_file(out / DIGESTS, json.dumps(found, indent=1) + "\n", mode=PUBLIC_MODE, is_durable=False)
    return found


def read_digests(folder: Path) -> Digests:
    """The digests of a run that is done. Raises ConfigurationError where the folder has none."""
    try:
        found: Digests = json.loads((folder / DIGESTS).read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{folder} holds no {DIGESTS}; run benchmarks/same_bits.py --out {folder}") from None
    return found


def differences(before: Digests, after: Digests) -> list[str]:
    """A line for each digest that changed, is missing or is new, in the order of the names."""
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{name}: is missing")
        elif name not in before:
            lines.append(f"{name}: is new")
        elif before[name] != after[name]:
            lines.append(f"{name}: differs")
    return lines


def study_digests(folder: Path) -> dict[str, str]:
    """The digests of all cells and all tables of a study's folder."""
    found: dict[str, str] = {}
    for path in sorted((folder / "cells").glob("*/card.json")):
        card = json.loads(path.read_text())
        cell = card["cell"]
        name = f"{cell['method']['label']}/{cell['regime']}/{cell['seed']}"
        found[f"{name}: settings and data"] = card["digest"]
        found |= {f"{name}: {arrays.name}": array_digest(arrays) for arrays in sorted(path.parent.glob("*.npz"))}
        is_signed = cell["federation"]["secure"] or cell["federation"].get("privacy")
        changing = (*CHANGING_COLUMNS, *SIGNED) if is_signed else CHANGING_COLUMNS
        found |= {f"{name}: {table.name}": table_digest(table, changing) for table in sorted(path.parent.glob("*.csv"))}
    # The bytes of cells without signatures are in the cells' own tables.
    changing = (*CHANGING_COLUMNS, *SIGNED)
    found |= {table.name: table_digest(table, changing) for table in sorted(folder.glob("*.csv"))}
    keys = sorted(json.loads((folder / "summary.json").read_text()))
    return found | {"summary.json: keys": _digest(json.dumps(keys).encode())}


def weight_digests(shared: Path) -> dict[str, str]:
    """The digests of the weights that WEIGHED_METHODS end with, trained in this process; `shared` has the cohort."""
    torch.set_num_threads(1)
    study = read_config(STUDY, StudyConfig)
    regime = next(iter(study.regimes))
    data = prepare_data(data_source(study, regime), study.model, shared, 1, QUIET)
    found = {}
    for method, cell in cells(study, dict.fromkeys(study.regimes, data.digest), "inprocess"):
        if method not in WEIGHED_METHODS or cell.regime != regime:
            continue
        sites, _ = split_and_partition(data.visits, cell)
        with tempfile.TemporaryDirectory() as folder:
            weights = train_federation(cell, sites, data.cache, Path(folder)).weights
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
        found[f"{cell_name(method, cell)}: weights"] = digest.hexdigest()
    return found


def array_digest(path: Path) -> str:
    """The digest of the names, types, shapes and values of a file of arrays, whatever its compression."""
    digest = hashlib.sha256()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            array = arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def table_digest(path: Path, changing: Sequence[str] = CHANGING_COLUMNS) -> str:
    """The digest of a table's columns and of the values in columns that do not change from run to run."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    header = rows[0] if rows else []
    kept = [i for i, column in enumerate(header) if not any(mark in column.lower() for mark in changing)]
    values = [[row[i] for i in kept] for row in rows[1:]]
    return _digest(json.dumps([header, values]).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Run the command of benchmarks/same_bits.py."""
    run(lambda: typer.run(same_bits))
