"""Scaling curves: what grows with batch, grid, modalities, hospitals, workers and patients, and how fast.

    python benchmarks/scaling.py [--full | --tiny] [--only PATTERN] [--out PATH] [--page-only]

`make scaling`. Each point is measured in a process of its own, on one thread, by benchmarks/scaling_points.py. Writes
docs/scaling.json and, from nothing but that, docs/scaling.md and its figures. Run it on an otherwise idle machine:
quick takes some ten minutes of two cores. Part of the curves (`--only`), or all at sizes that say nothing (`--tiny`),
are written only where `--out` names a place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scaling_page import DEFAULT_FIGURE, law_of, law_text, series, write_page

from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import run
from permmoe.runtime.provenance import versions
from run import described_machine, digest

Scale = Literal["tiny", "quick", "full"]
POINTS = Path(__file__).parent / "scaling_points.py"
console = Console(highlight=False)


@dataclass(frozen=True)
class Curve:
    """Points of one kind along one argument."""

    name: str
    kind: str
    """Of the function in scaling_points.py."""
    axis: str
    """Its argument that grows."""
    at: Mapping[Scale, Sequence[int]]
    fixed: Mapping[Scale, Mapping[str, Any]]
    """The other arguments."""
    turns: Mapping[Scale, int] = field(default_factory=lambda: {"tiny": 1, "quick": 1, "full": 3})
    """How often each point is measured."""


def _everywhere(**arguments: Any) -> Mapping[Scale, Mapping[str, Any]]:
    return {"tiny": arguments, "quick": arguments, "full": arguments}


def _step_curves(kind: str, batches: Sequence[int], more_batches: Sequence[int]) -> list[Curve]:
    centre = {"batch": 8, "edge": 24, "modalities": 4}
    small = {"batch": 2, "edge": 16, "modalities": 2}
    at: Mapping[str, Mapping[Scale, Sequence[int]]] = {
        "batch": {"tiny": (1, 2, 3), "quick": batches, "full": more_batches},
        "edge": {"tiny": (16, 18, 20), "quick": (16, 24, 32, 40), "full": (16, 24, 32, 48, 64, 96)},
        "modalities": {"tiny": (1, 2, 3), "quick": (1, 2, 4, 8), "full": (1, 2, 3, 4, 5, 6, 7, 8)},
    }
    curves = []
    for axis, places in at.items():
        others = {name: value for name, value in centre.items() if name != axis}
        tiny = {name: value for name, value in small.items() if name != axis}
        fixed: Mapping[Scale, Mapping[str, Any]] = {
            "tiny": {"kind": kind, **tiny}, "quick": {"kind": kind, **others}, "full": {"kind": kind, **others}
        }  # fmt: skip
        curves.append(Curve(f"step-{axis}-{kind}", "step", axis, places, fixed, {"tiny": 1, "quick": 1, "full": 5}))
    return curves


CURVES = (
    *_step_curves("pooled", (2, 8, 32, 128), (1, 2, 4, 8, 16, 32, 64, 128)),
    *_step_curves("sfcn", (2, 4, 8, 32), (1, 2, 4, 8, 16, 32, 64)),
    Curve(
        "round-plain", "plain_round", "clients",
        {"tiny": (2, 3, 5), "quick": (10, 30, 100, 300, 1000), "full": (10, 30, 100, 300, 1000)},
        {"tiny": {"rounds": 1}, "quick": {"rounds": 3}, "full": {"rounds": 4}},
    ),
    Curve(
        "round-secure", "secure_round", "clients",
        {"tiny": (3, 4, 5), "quick": (5, 10, 20, 40), "full": (5, 10, 20, 40, 80, 160)},
        {"tiny": {"rounds": 1}, "quick": {"rounds": 2}, "full": {"rounds": 2}},
    ),
    Curve(
        "round-superlink", "superlink_round", "clients",
        {"tiny": (1, 2, 3), "quick": (2, 5, 10, 20), "full": (2, 5, 10, 20, 40, 80)},
        {"tiny": {"rounds": 3}, "quick": {"rounds": 3}, "full": {"rounds": 6}},
        {"tiny": 1, "quick": 1, "full": 2},
    ),
    Curve("ray", "ray_overhead", "clients", {"tiny": (8,), "quick": (8,), "full": (8,)}, _everywhere()),
    Curve(
        "study-workers", "study", "workers", {"tiny": (1, 2), "quick": (1, 2), "full": (1, 2)},
        {
            "tiny": {"cells": 2, "subjects": 240, "rounds": 2},
            "quick": {"cells": 4, "subjects": 240, "rounds": 6},
            "full": {"cells": 8, "subjects": 800, "rounds": 24},
        },
    ),
    Curve(
        "private-batch", "private_step", "batch",
        {"tiny": (2, 3, 4), "quick": (8, 16, 32, 64), "full": (4, 8, 16, 32, 64, 128)},
        _everywhere(), {"tiny": 1, "quick": 1, "full": 5},
    ),
    Curve(
        "epoch-patients", "epoch", "patients",
        {"tiny": (10, 20, 40), "quick": (100, 400, 1600, 6400), "full": (100, 400, 1600, 6400, 25600)},
        _everywhere(), {"tiny": 1, "quick": 1, "full": 3},
    ),
)  # fmt: skip


def benchmark(
    full: Annotated[bool, typer.Option("--full", help="More points and turns: an hour or two.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="Whether everything runs; the figures say nothing.")] = False,
    only: Annotated[str, typer.Option(help="Curves of this name, * and ? allowed.")] = "*",
    out: Annotated[
        Path | None,
        typer.Option(help="Written with .json and .md appended, figures beside them. [default: docs/scaling]"),
    ] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Write page and figures anew from the JSON.")] = False,
) -> None:
    """Measure the curves and say what they come to at 1,000 hospitals and 100,000 patients."""
    if full and tiny:
        raise ConfigurationError("--full and --tiny exclude each other; give one of them")
    docs = Path("docs/scaling")
    if page_only:
        write_page(out or docs)
        return
    scale: Scale = "full" if full else "tiny" if tiny else "quick"
    chosen = [curve for curve in CURVES if fnmatchcase(curve.name, only)]
    if not chosen:
        raise ConfigurationError(f"no curve is called {only!r}; name one of {', '.join(c.name for c in CURVES)}")
    started, load = time.perf_counter(), os.getloadavg()[0]
    curves = measured(chosen, scale)
    settings = {curve.name: settings_of(curve, scale) for curve in chosen}
    result = {
        "scale": scale,
        "date": datetime.now(UTC).date().isoformat(),
        "settings_sha256": digest(settings),
        "seed": 0,
        "versions": versions(),
        "machine": described_machine() | {"load_at_start": round(load, 1)},
        "constants": point("constants", {}),
        "curves": {curve.name: settings[curve.name] | {"points": curves[curve.name]} for curve in chosen},
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    console.print(table(result))
    place = out or (docs if only == "*" and scale != "tiny" else None)
    if place is None:
        return
    place.with_suffix(".json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    written = write_page(place)
    console.print(f"{result['minutes']} minutes; written: {place.with_suffix('.json')}, {', '.join(map(str, written))}")


def settings_of(curve: Curve, scale: Scale) -> dict[str, Any]:
    """All that a curve's figures depend on, besides versions and machine."""
    return {
        "kind": curve.kind, "axis": curve.axis, "at": list(curve.at[scale]), "fixed": dict(curve.fixed[scale]),
        "turns": curve.turns[scale],
    }  # fmt: skip


def measured(curves: Sequence[Curve], scale: Scale) -> dict[str, list[dict[str, Any]]]:
    """By curve its points: x, and what each turn found there.

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
                    arguments = {**curve.fixed[scale], curve.axis: place["x"]}
                    key = json.dumps([curve.kind, arguments], sort_keys=True)
                    if key not in done:
                        done[key] = point(curve.kind, arguments)
                    place["turns"].append(done[key])
                    progress.advance(task)
    return found


def point(kind: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a point measures in a process of its own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(POINTS), kind, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        shown = f"{Path(POINTS).name} {kind} '{json.dumps(arguments)}'"
        raise ConfigurationError(f"a point failed; run `python benchmarks/{shown}` by itself:\n{done.stderr[-2000:]}")
    answer: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


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


if __name__ == "__main__":
    run(lambda: typer.run(benchmark))
