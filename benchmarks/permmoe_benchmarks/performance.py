"""Every performance goal as a ratio of two things that take turns in processes of their own.

    python benchmarks/run.py [--full | --tiny] [--only PATTERN] [--pairs 5] [--page-only]

`make bench` (quick, small grids) and `make bench-full` (the published grid) run it. It prints a table and writes
docs/performance.json and, from nothing but that, docs/performance.md. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import run
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.provenance import versions
from permmoe_benchmarks.goals import ACCURACIES, CANDIDATES, GOALS, NOT_HERE, Goal, Pair
from permmoe_benchmarks.library.machine import described_machine, settings_digest
from permmoe_benchmarks.library.own_process import measure
from permmoe_benchmarks.library.scale import settings
from permmoe_benchmarks.measurements.registry import SIDES
from permmoe_benchmarks.pages.performance import performance_page
from permmoe_benchmarks.pages.text import figure_text

PEAKS = ("fp32_gflops", "bf16_gflops", "memory_gb_a_second")
EVERYTHING = "*"

MeasureSide = Callable[[str, str], Mapping[str, Any]]
"""Measures a side, by name, at a scale, by name."""

console = Console(highlight=False)


def benchmark(
    full: Annotated[
        bool, typer.Option("--full", help="The published grid and cohort size: hours, not minutes.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Find out whether everything runs; the figures say nothing.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Goals of this name, * and ? allowed; nothing is written to docs.")
    ] = EVERYTHING,
    pairs: Annotated[int, typer.Option(min=1, help="Turns of every ratio.")] = 5,
    out: Annotated[
        Path, typer.Option(help="Written with .json and .md appended, unless the run is of a part, or tiny.")
    ] = Path("docs/performance"),
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Time nothing: judge what the JSON holds by today's goals.")
    ] = False,
) -> None:
    """Measure the goals and say which are met."""
    if full and tiny:
        raise ConfigurationError("--full and --tiny exclude each other; give one of them")
    if page_only:
        write_result(judged_anew(json.loads(out.with_suffix(".json").read_text())), out)
        return
    result = measured_result("full" if full else "tiny" if tiny else "quick", only, pairs, measure_side)
    console.print(table(result))
    for group, reason in result["failed"].items():
        console.print(f"[red]{group} was not measured:[/] {reason}", soft_wrap=True)
    if only == EVERYTHING and not tiny:
        write_result(result, out)
        console.print(f"{result['minutes']} minutes; written: {out.with_suffix('.json')} and {out.with_suffix('.md')}")


def measured_result(scale: str, only: str, pairs: int, side: MeasureSide) -> dict[str, Any]:
    """Measure the goals whose names match `only`, and return the JSON of the run.

    Accuracies and the profile belong to a run of everything. Raises ConfigurationError where no name matches.
    """
    chosen = [goal for goal in (*GOALS, *CANDIDATES) if fnmatchcase(goal.name, only)]
    if not chosen:
        names = ", ".join(goal.name for goal in (*GOALS, *CANDIDATES))
        raise ConfigurationError(f"no goal is called {only!r}; name one of {names}")
    started, load = time.perf_counter(), os.getloadavg()[0]
    is_whole = only == EVERYTHING
    turns, failed = measured_turns(chosen, scale, pairs, side)
    chosen = [goal for goal in chosen if goal.group not in failed]
    once = {name: side(name, scale) for name in (*ACCURACIES, "profile") if is_whole}
    described = {"settings": settings(scale), "pairs": pairs, "rows": [goal.name for goal in chosen]}
    return {
        "scale": scale,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": settings(scale),
        "settings_sha256": settings_digest(described),
        "pairs": pairs,
        "seed": 0,
        "versions": versions(),
        "machine": described_machine() | {"load_at_start": round(load, 1)},
        "peaks": peaks_of(turns),
        "rows": [summary(goal, turns) for goal in chosen if goal in GOALS],
        "candidates": [summary(goal, turns) for goal in chosen if goal in CANDIDATES],
        "not_measured": [{"name": name, "says": says} for name, says in NOT_HERE if is_whole],
        "failed": failed,
        "accuracy": {name: once[name] for name in ACCURACIES if name in once},
        "profile": once.get("profile", {}),
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }


def measured_turns(
    goals: Sequence[Goal], scale: str, pairs: int, side: MeasureSide
) -> tuple[dict[str, list[Pair]], dict[str, str]]:
    """For each group the figures of its sides, one turn after another, and for each group that failed the reason.

    The side that begins changes from turn to turn. A group that fails does not keep the others from being measured.
    """
    sides: dict[str, list[str]] = {}
    for goal in goals:
        known = sides.setdefault(goal.group, [])
        known += [name for name in goal.sides if name not in known]
    numbers = {group: pairs if any(g.repeats for g in goals if g.group == group) else 1 for group in sides}
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
                    for name in order:
                        progress.update(task, description=f"{name}, turn {turn + 1} of {number}")
                        figures[name] = side(name, scale)
                        progress.advance(task)
                except ConfigurationError as error:
                    failed[group] = str(error)
                    break
                turns[group].append(figures)
    return turns, failed


def measure_side(name: str, scale: str) -> Mapping[str, Any]:
    """What a side measures, in a process of its own."""
    return measure(SIDES[name].given(scale=scale))


def write_result(result: Mapping[str, Any], out: Path) -> None:
    """Write the JSON of a run and its page."""
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    write_file(out.with_suffix(".json"), text, mode=PUBLIC_MODE, is_durable=False)
    write_page(out)


def write_page(out: Path) -> None:
    """Write the page from the JSON beside it."""
    page = performance_page(json.loads(out.with_suffix(".json").read_text()))
    write_file(out.with_suffix(".md"), page, mode=PUBLIC_MODE, is_durable=False)


def summary(goal: Goal, turns: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """A goal's median and spread over its turns, and the text beside them, of the turn nearest to the median."""
    own = turns[goal.group]
    values = [goal.figure(turn) for turn in own]
    median = statistics.median(values)
    nearest = min(range(len(values)), key=lambda i: abs(values[i] - median))
    return {
        "name": goal.name, "says": goal.says, "goal": goal.wanted, "unit": goal.unit, "median": median,
        "least": min(values), "most": max(values), "values": values, "is_met": goal.is_met(median),
        "beside": goal.beside(own[nearest]),
    }  # fmt: skip


def judged_anew(result: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures beside the goals as they are now. A row that is no goal any more stays as it was."""
    goals = {goal.name: goal for goal in (*GOALS, *CANDIDATES)}

    def judged(row: Mapping[str, Any]) -> dict[str, Any]:
        goal = goals.get(row["name"])
        if goal is None:
            return dict(row)
        return {**row, "says": goal.says, "goal": goal.wanted, "is_met": goal.is_met(row["median"])}

    return {**result, **{kind: [judged(row) for row in result[kind]] for kind in ("rows", "candidates")}}


def peaks_of(turns: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """The machine's own peaks, medians over the turns."""
    found = [turn["peaks"] for own in turns.values() for turn in own if "peaks" in turn]
    return {name: statistics.median(f[name] for f in found) for name in PEAKS} if found else {}


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


def main() -> None:
    """Run the command of benchmarks/run.py."""
    run(lambda: typer.run(benchmark))
