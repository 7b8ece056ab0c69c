"""Scaling curves: what grows with batch, grid, modalities, hospitals, workers and patients, and how fast.

    python benchmarks/scaling.py [--full | --tiny] [--only PATTERN] [--out PATH] [--page-only]

`make scaling` runs it. Each point is measured in a process of its own, on one thread. It writes docs/scaling.json and,
from nothing but that, docs/scaling.md and its figures. Run it on an otherwise idle machine: quick takes some ten
minutes of two cores. Part of the curves (`--only`), or all at sizes that say nothing (`--tiny`), are written only where
`--out` names a place.
"""

from __future__ import annotations

import json
import os
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
from permmoe_benchmarks.library.curve import Curve, ScaleName
from permmoe_benchmarks.library.machine import described_machine, settings_digest
from permmoe_benchmarks.library.own_process import Measurement, measure
from permmoe_benchmarks.measurements.projection_constants import projection_constants
from permmoe_benchmarks.measurements.registry import CURVES
from permmoe_benchmarks.pages.scaling import write_scaling_page
from permmoe_benchmarks.pages.series import DEFAULT_FIGURE, law_of, law_text, series

DOCS = Path("docs/scaling")
EVERYTHING = "*"

MeasurePoint = Callable[[Measurement], Mapping[str, Any]]

console = Console(highlight=False)


def benchmark(
    full: Annotated[bool, typer.Option("--full", help="More points and turns: an hour or two.")] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Find out whether everything runs; the figures say nothing.")
    ] = False,
    only: Annotated[str, typer.Option(help="Curves of this name, * and ? allowed.")] = EVERYTHING,
    out: Annotated[
        Path | None,
        typer.Option(help="Written with .json and .md appended, figures beside them. [default: docs/scaling]"),
    ] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Write page and figures anew from the JSON.")] = False,
) -> None:
    """Measure the curves and say what they come to at 1,000 hospitals and 100,000 patients."""
    if full and tiny:
        raise ConfigurationError("--full and --tiny exclude each other; give one of them")
    if page_only:
        write_scaling_page(out or DOCS)
        return
    scale: ScaleName = "full" if full else "tiny" if tiny else "quick"
    result = measured_result(scale, only, measure)
    console.print(table(result))
    if place := place_of(out, scale, only):
        written = write_result(result, place)
        console.print(f"{result['minutes']} minutes; written: {', '.join(map(str, written))}")


def place_of(out: Path | None, scale: ScaleName, only: str) -> Path | None:
    """Where a run is written to; None for a run that says too little to be written to the docs."""
    return out or (DOCS if only == EVERYTHING and scale != "tiny" else None)


def measured_result(scale: ScaleName, only: str, measure_point: MeasurePoint) -> dict[str, Any]:
    """Measure the curves whose names match `only`, and return the JSON of the run.

    Raises ConfigurationError where no name matches.
    """
    chosen = [curve for curve in CURVES if fnmatchcase(curve.name, only)]
    if not chosen:
        raise ConfigurationError(f"no curve is called {only!r}; name one of {', '.join(c.name for c in CURVES)}")
    started, load = time.perf_counter(), os.getloadavg()[0]
    points = measured_points(chosen, scale, measure_point)
    settings = {curve.name: curve.settings(scale) for curve in chosen}
    return {
        "scale": scale,
        "date": datetime.now(UTC).date().isoformat(),
        "settings_sha256": settings_digest(settings),
        "seed": 0,
        "versions": versions(),
        "machine": described_machine() | {"load_at_start": round(load, 1)},
        "constants": measure_point(Measurement(projection_constants, is_fresh=True)),
        "curves": {name: own | {"points": points[name]} for name, own in settings.items()},
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }


def measured_points(
    curves: Sequence[Curve], scale: ScaleName, measure_point: MeasurePoint
) -> dict[str, list[dict[str, Any]]]:
    """By curve its points: x, and the figures of each turn there.

    All points are measured once before any is measured again, so that a slow minute does not fall on one of them.
    """
    found: dict[str, list[dict[str, Any]]] = {c.name: [{"x": x, "turns": []} for x in c.at[scale]] for c in curves}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=sum(len(c.at[scale]) * c.turns[scale] for c in curves))
        for turn in range(max(curve.turns[scale] for curve in curves)):
            # Curves that cross in a point share its measurement.
            done: dict[str, Mapping[str, Any]] = {}
            for curve in (curve for curve in curves if turn < curve.turns[scale]):
                for place in found[curve.name]:
                    progress.update(task, description=f"{curve.name}, {curve.axis} {place['x']}, turn {turn + 1}")
                    point = curve.point(scale, place["x"])
                    key = json.dumps([point.address, point.arguments], sort_keys=True)
                    if key not in done:
                        done[key] = measure_point(point)
                    place["turns"].append(done[key])
                    progress.advance(task)
    return found


def write_result(result: Mapping[str, Any], place: Path) -> list[Path]:
    """Write the JSON of a run, its page and its figures, and return their files."""
    path = place.with_suffix(".json")
    write_file(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n", mode=PUBLIC_MODE, is_durable=False)
    return [path, *write_scaling_page(place)]


def table(result: Mapping[str, Any]) -> Table:
    """What was measured, for the terminal."""
    shown = Table(title=f"scaling, {result['scale']}, medians")
    for column in ("curve", "points", "law"):
        shown.add_column(column)
    for name, curve in result["curves"].items():
        figure = DEFAULT_FIGURE[curve["kind"]]
        found = series(curve, figure)
        points = ", ".join(f"{x:g}: {median:.3g}" for x, median in zip(found.x, found.median, strict=True))
        law = law_of(found)
        shown.add_row(name, f"{figure} at {curve['axis']} {points}", law_text(law) if law else "")
    return shown


def main() -> None:
    """Run the command of benchmarks/scaling.py."""
    run(lambda: typer.run(benchmark))
