"""What each way to calibrate a finished model on a few patients of a new hospital would have given.

    python simulation/run.py configs/studies/new-hospital-choice.yaml
    python benchmarks/new_hospital.py        # -> docs/new-hospital.md

The models are those of a finished study; nothing is trained here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from permmoe.calibration.at_hospital import CHOSEN, Prior
from permmoe.calibration.calibration import severity_ends, severity_group
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import ScoreCounts, count_scores
from permmoe.errors import ConfigurationError
from permmoe_simulation.report.newcomers import Calibrate, FinishedModel, Judged, Rows, newcomers_of, with_own_patients
from permmoe_simulation.studies.cell_files import FinishedCell, Matrix

NUMBERS = (10, 20, 50)
NO_SLOPE = 1e-6
"""A slope's deviation so small that it stays 1."""


def alone(model: FinishedModel, own: Rows) -> tuple[Matrix, ScoreCounts]:
    """Split conformal on the hospital's patients, and nothing else."""
    predictions, ends = model.tested.predictions, severity_ends(model.config)
    scores = np.abs(model.target[own, None] - predictions[own]) / model.scales[own]
    groups = severity_group(model.baseline[own], ends)
    return predictions, count_scores(model.config.names, scores, groups, 1 + len(ends), ["new"] * len(own))


def pooled(model: FinishedModel, own: Rows) -> tuple[Matrix, ScoreCounts]:
    """Split conformal on those who calibrated the model and the hospital's patients together."""
    predictions, counts = alone(model, own)
    return predictions, model.counts + counts


def _with(offset_worth: float, slope_deviation: float, scale_worth: float) -> Calibrate:
    return partial(with_own_patients, prior=Prior(offset_worth, slope_deviation, scale_worth))


WAYS: Mapping[str, Calibrate] = {
    "split conformal, the hospital's patients alone": alone,
    "split conformal, pooled": pooled,
    "interval length alone": _with(inf, NO_SLOPE, CHOSEN.scale_worth),
    "offset alone": _with(CHOSEN.offset_worth, NO_SLOPE, inf),
    "offset and interval length": _with(CHOSEN.offset_worth, NO_SLOPE, CHOSEN.scale_worth),
    "offset and interval length, length worth 10": _with(CHOSEN.offset_worth, NO_SLOPE, 10.0),
    "**offset, slope and interval length**": with_own_patients,
    "the same, not drawn towards the model's own": _with(0.0, 1e6, 0.0),
}
"""By their names on the page; the default in bold."""


def measure(
    cells: Sequence[FinishedCell], numbers: Sequence[int] = NUMBERS
) -> dict[tuple[str, str, int], list[Judged]]:
    """By kind of cohort, way and number of patients: every hospital after the calibration."""
    found: dict[tuple[str, str, int], list[Judged]] = defaultdict(list)
    for cell in cells:
        kind = cell.regime.rpartition("-")[0]
        for way, calibrate in WAYS.items():
            for judged in newcomers_of(cell, numbers, calibrate):
                name = way if judged.patients else "none"
                if judged.patients or way == next(iter(WAYS)):
                    found[kind, name, judged.patients].append(judged)
    return dict(found)


def page(found: Mapping[tuple[str, str, int], Sequence[Judged]], seeds: Sequence[int], command: str) -> str:
    """The tables as Markdown."""
    hospitals = len(next(iter(found.values())))
    lines = [
        "# A hospital that never trained",
        "",
        f"`{command}`, from the cells of `configs/studies/new-hospital-choice.yaml` (training seeds {seeds[0]} to "
        f"{seeds[-1]}): synthetic cohorts of development, and nothing about patients. In each kind of cohort "
        f"{hospitals} hospitals that never trained calibrate PerM-MoE on some of their patients, in one of these ways, "
        "and are judged on others. Coverage and widths are over all intervals, RMSE is averaged over combinations, in "
        "CDR-SB points; an 80% interval is to hold 77 to 83% from 20 patients on. The study `new-hospital` "
        "([results.md](results.md)) judges the way in bold on a cohort that nothing was chosen on.",
    ]
    for kind in dict.fromkeys(key[0] for key in found):
        levels = " | ".join(f"{level:.0%} hold | width" for level in LEVELS)
        lines += [
            "",
            f"## Scanners that differ {'as usual' if kind == 'plain' else 'three times as much'}",
            "",
            f"| way | own patients | {levels} | RMSE |",
            f"|---|---|{'---|---|' * len(LEVELS)}---|",
        ]
        lines += [_line(way, n, judged) for (of, way, n), judged in found.items() if of == kind]
    return "\n".join(lines) + "\n"


def _line(way: str, patients: int, judged: Sequence[Judged]) -> str:
    held, n, width = (sum(getattr(one, name) for one in judged) for name in ("held", "n", "width_sum"))
    told = [
        f"{h / m:.1%} | {w / m:.2f}" if m else "too few patients | –" for h, m, w in zip(held, n, width, strict=True)
    ]
    squared = np.concatenate([one.squared_error for one in judged])
    rmse = np.sqrt(np.nanmean(squared, axis=0)).mean()
    return f"| {way} | {patients} | {' | '.join(told)} | {rmse:.2f} |"


def write(
    folder: Annotated[Path, typer.Argument(help="Folder of the finished study.")] = Path("runs/new-hospital-choice"),
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/new-hospital.md"),
) -> None:
    """Judge every way at every new hospital of a finished study and write the page."""
    cells = [_cell(path.parent) for path in sorted(folder.glob("cells/*/card.json"))]
    used = sorted((c for c in cells if c.unseen_sites()), key=lambda c: (c.regime, c.seed))
    models = [c for c in used if c.card()["cell"]["method"]["kind"] == "centralised"]
    if not models:
        raise ConfigurationError(
            f"{folder} holds no finished model; run configs/studies/new-hospital-choice.yaml first"
        )
    found = measure(models)
    ordered = dict(sorted(found.items(), key=lambda item: (item[0][0], [*WAYS, "none"].index(item[0][1]))))
    out.write_text(page(ordered, sorted({c.seed for c in models}), "python benchmarks/new_hospital.py"))
    print(f"{len(models)} models -> {out}")


def _cell(folder: Path) -> FinishedCell:
    card = FinishedCell("", "", 0, folder).card()["cell"]
    return FinishedCell("permmoe", card["regime"], card["seed"], folder)


def main() -> None:
    """The command."""
    typer.run(write)
