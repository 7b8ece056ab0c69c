"""Every performance goal as a ratio of two things that take turns in processes of their own.

    python benchmarks/run.py [--full] [--only PATTERN] [--pairs 5] [--page-only]

`make bench` (quick, small grids) and `make bench-full` (the published grid). Prints a table and writes
docs/performance.json and, from nothing but that, docs/performance.md. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from goals import ACCURACIES, CANDIDATES, HAS_TILES, NOT_HERE, ROWS, Pair, Row
from page import figure_text, page
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sides import figures_of, settings

from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import run
from permmoe.runtime.provenance import machine, versions

HERE = Path(__file__).parent.resolve()
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PEAKS = ("fp32_gflops", "bf16_gflops", "memory_gb_a_second")
console = Console(highlight=False)


def benchmark(
    full: Annotated[
        bool, typer.Option("--full", help="The published grid and cohort size: hours, not minutes.")
    ] = False,
    only: Annotated[str, typer.Option(help="Rows of this name, * and ? allowed; nothing is written to docs.")] = "*",
    pairs: Annotated[int, typer.Option(min=1, help="Turns of every ratio.")] = 5,
    out: Annotated[Path, typer.Option(help="Written with .json and .md appended.")] = Path("docs/performance"),
    page_only: Annotated[bool, typer.Option("--page-only", help="Write the page anew from the JSON.")] = False,
) -> None:
    """Measure the goals and say which are met."""
    if page_only:
        write_page(out)
        return
    scale = "full" if full else "quick"
    chosen = [row for row in (*ROWS, *CANDIDATES) if fnmatchcase(row.name, only)]
    if not chosen:
        names = ", ".join(row.name for row in (*ROWS, *CANDIDATES))
        raise ConfigurationError(f"no row is called {only!r}; name one of {names}")
    started, load = time.perf_counter(), os.getloadavg()[0]
    is_whole = only == "*"
    turns, failed = measured(chosen, scale, pairs)
    chosen = [row for row in chosen if row.group not in failed]
    once = {side: run_side(side, scale) for side in (*ACCURACIES, "profile") if is_whole}
    result = {
        "scale": scale,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": settings(scale),
        "settings_sha256": digest({"settings": settings(scale), "pairs": pairs, "rows": [row.name for row in chosen]}),
        "pairs": pairs,
        "seed": 0,
        "versions": versions(),
        "machine": described_machine() | {"load_at_start": round(load, 1)},
        "peaks": peaks_of(turns),
        "rows": [summary(row, turns) for row in chosen if row in ROWS],
        "candidates": [summary(row, turns) for row in chosen if row in CANDIDATES],
        "not_measured": [{"name": name, "says": says} for name, says in NOT_HERE if is_whole],
        "failed": failed,
        "accuracy": {side: once[side] for side in ACCURACIES if side in once},
        "profile": once.get("profile", {}),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    console.print(table(result))
    for group, reason in failed.items():
        console.print(f"[red]{group} was not measured:[/] {reason}", soft_wrap=True)
    if not is_whole:
        return
    out.with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    write_page(out)
    console.print(f"{result['minutes']} minutes; written: {out.with_suffix('.json')} and {out.with_suffix('.md')}")


def write_page(out: Path) -> None:
    """The page, from the JSON beside it."""
    out.with_suffix(".md").write_text(page(json.loads(out.with_suffix(".json").read_text())))


def measured(rows: Sequence[Row], scale: str, pairs: int) -> tuple[dict[str, list[Pair]], dict[str, str]]:
    """For each group the figures of its sides, a turn after another, and why a group has none.

    Who begins changes from turn to turn; what fails does not keep the rest from being measured.
    """
    sides: dict[str, list[str]] = {}
    for row in rows:
        known = sides.setdefault(row.group, [])
        known += [side for side in row.sides if side not in known]
    numbers = {group: pairs if any(r.repeats for r in rows if r.group == group) else 1 for group in sides}
    turns: dict[str, list[Pair]] = {group: [] for group in sides}
    failed: dict[str, str] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=sum(len(sides[g]) * n for g, n in numbers.items()))
        for group, number in numbers.items():
            for turn in range(number):
                first = turn % len(sides[group])
                order = sides[group][first:] + sides[group][:first]
                figures = {}
                try:
                    for side in order:
                        progress.update(task, description=f"{side}, turn {turn + 1} of {number}")
                        figures[side] = run_side(side, scale)
                        progress.advance(task)
                except ConfigurationError as error:
                    failed[group] = str(error)
                    break
                turns[group].append(figures)
    return turns, failed


def run_side(side: str, scale: str) -> Mapping[str, Any]:
    """What a side measures in a process of its own, on one thread.

    The process is forked from one that has imported the sides and computed nothing: importing takes seconds.
    """
    # The common parent looks for the sides there; of itself it knows installed packages alone.
    os.environ |= ONE_THREAD | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sides"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            return process.submit(figures_of, side, scale).result()
    except Exception as error:
        again = f"python benchmarks/sides.py {side} {scale}"
        raise ConfigurationError(f"the side {side} failed ({error}); run `{again}` by itself") from error


def summary(row: Row, turns: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """A row's median and spread over its turns, and the text beside them of the turn nearest to the median."""
    own = turns[row.group]
    values = [row.figure(turn) for turn in own]
    median = statistics.median(values)
    nearest = min(range(len(values)), key=lambda i: abs(values[i] - median))
    return {
        "name": row.name, "says": row.says, "goal": row.wanted, "unit": row.unit, "median": median,
        "least": min(values), "most": max(values), "values": values, "is_met": row.is_met(median),
        "beside": row.beside(own[nearest]),
    }  # fmt: skip


def peaks_of(turns: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """The machine's own peaks, medians over the turns."""
    found = [turn["peaks"] for own in turns.values() for turn in own if "peaks" in turn]
    return {name: statistics.median(f[name] for f in found) for name in PEAKS} if found else {}


def described_machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "system": machine(), "cores": os.cpu_count(), "instructions": torch.backends.cpu.get_cpu_capability(),
        "has_amx_tiles": HAS_TILES, "gpu": torch.cuda.is_available(), "c_library": " ".join(platform.libc_ver()),
    }  # fmt: skip


def digest(values: Any) -> str:
    """SHA-256 of settings, whatever the state of the checkout."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def table(result: Mapping[str, Any]) -> Table:
    """What was measured, for the terminal."""
    shown = Table(title=f"performance, {result['scale']}, median of {result['pairs']} pairs (least to most)")
    for column in ("", "figure", "goal", "met", "beside"):
        shown.add_column(column)
    for row in (*result["rows"], *result["candidates"]):
        median, least, most = (figure_text(row[key], row["unit"]) for key in ("median", "least", "most"))
        met = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}[row["is_met"]]
        shown.add_row(row["says"], f"{median} ({least} to {most})", row["goal"], met, row["beside"])
    for row in result["not_measured"]:
        shown.add_row(row["says"], "not measured here", "", "", "")
    return shown


if __name__ == "__main__":
    run(lambda: typer.run(benchmark))
