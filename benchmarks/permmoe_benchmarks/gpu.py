"""What a card does: steps by encoder and precision, the price of determinism, memory, and a study's cells an hour.

    python benchmarks/gpu.py [--encoders cnn,sfcn,pooled] [--visits 8] [--repeats 12] [--out FILE.json]
    python benchmarks/gpu.py --device cpu --quick --encoders sfcn_lite,pooled --visits 2 --repeats 1

The second line takes the whole path without a card, at sizes that say nothing.
Prints Markdown: what docs/gpu.md keeps under the card's name. It takes the card for some minutes; not part of
`make bench`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from permmoe.config import TrainConfig
from permmoe.encoder_kinds import encoder_kind
from permmoe.errors import ConfigurationError
from permmoe.runtime.command_line import run
from permmoe.runtime.devices import training_device
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.provenance import machine, versions
from permmoe.training.hardware import repeatable
from permmoe_benchmarks.library.scale import SCALES, Scale
from permmoe_benchmarks.library.timing import Figures
from permmoe_benchmarks.measurements.gpu_memory import memory_of_step
from permmoe_benchmarks.measurements.gpu_step import (
    FEW,
    WAYS,
    gflop_of,
    matrix_peak,
    measured_step,
    same_twice,
    synchronisations,
)
from permmoe_benchmarks.measurements.gpu_study import cells_an_hour
from permmoe_benchmarks.pages.gpu import gpu_page

PRODUCT_SIZE, QUICK_PRODUCT_SIZE = 8192, 256
STUDY = {"cells": 16, "subjects": 800, "rounds": 24}
QUICK_STUDY = {"cells": 2, "subjects": 240, "rounds": 2}
QUICK_GRID = (24, 25, 26)


def benchmark(
    encoders: Annotated[str, typer.Option(help="Comma-separated encoders.")] = "cnn,sfcn,pooled",
    visits: Annotated[int, typer.Option(min=1, help="Visits of a step; half of their volumes are missing.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each way.")] = 12,
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or cpu.")] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: tries the command, says nothing.")] = False,
    study: Annotated[bool, typer.Option(help="Run a small study for its cells an hour.")] = True,
    workers: Annotated[int, typer.Option(min=1, help="Cells of the study at a time.")] = os.cpu_count() or 1,
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """Measure the steps, and a study, on a card."""
    place = torch.device(training_device(device))
    scale = replace(SCALES["full"], visits=visits, grid=QUICK_GRID if quick else SCALES["full"].grid)
    kinds = [kind for kind in encoders.split(",") if encoder_kind(kind)]
    result: Figures = {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU",
        "is_quick": quick, "machine": machine(), "versions": versions(), "seed": 0, "visits": visits,
        "grid": scale.grid, "repeats": repeats,
        "peaks": {
            name: matrix_peak(name, QUICK_PRODUCT_SIZE if quick else PRODUCT_SIZE, place)
            for name in dict.fromkeys(way.precision for way in WAYS)
        },
        "encoders": {kind: of_encoder(scale, kind, repeats, place) for kind in kinds},
        "study": of_study(device, workers, QUICK_STUDY if quick else STUDY) if study else {},
    }  # fmt: skip
    if out:
        write_file(out, json.dumps(result, indent=1) + "\n", mode=PUBLIC_MODE, is_durable=False)
    print(gpu_page(result))


def of_encoder(scale: Scale, kind: str, repeats: int, device: torch.device) -> Figures:
    """All that is measured of a step with one encoder."""
    return {
        "gflop": gflop_of(scale, kind, device),
        "ways": {
            way.name: {"precision": way.precision, **measured_step(scale, kind, way, repeats, device)} for way in WAYS
        },
        "deterministic": same_twice(scale, kind, min(FEW, repeats), device),
        "synchronisations": synchronisations(scale, kind, device) if device.type == "cuda" else {},
        "computed_memory": memory_of_step(scale, kind, scale.visits) if encoder_kind(kind).reads == "voxels" else {},
    }


def of_study(device: str, workers: int, sizes: dict[str, int]) -> dict[str, Any]:
    """The study's rate, or why there is none."""
    try:
        return cells_an_hour(device, workers=workers, **sizes)
    except ConfigurationError as error:
        return {"failed": str(error)}


def main() -> None:
    """Run the command of benchmarks/gpu.py."""
    # Before cuBLAS is first used, which then has a workspace of one size for all ways.
    with repeatable(TrainConfig(deterministic=True)):
        pass
    run(lambda: typer.run(benchmark))
