"""What each part of a federation costs in time and bytes, beside a plain one that was trained in the same run.

python simulation/run.py configs/studies/costs.yaml --workers 1
python benchmarks/costs.py               # -> docs/costs.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from permmoe.errors import ConfigurationError
from permmoe_simulation.report.files import Study, read_study
from permmoe_simulation.report.growth import COSTS
from permmoe_simulation.report.published_command import published_command
from permmoe_simulation.study_tables import RESULTS, ROUNDS

PLAIN = "plain"
"""The method that the others are held against."""


def costs_of(study: Study) -> pd.DataFrame:
    """A row for each method, the plain one first and the others in the study's order, means over its seeds.

    `rounds`; `megabytes` of messages, to and from all sites together; `seconds` of the whole cell, and of `training` at
    all sites together, 0 where they do not tell. Raises ConfigurationError for a study without a plain federation.
    """
    rounds, cells = study.table(ROUNDS), study.table(COSTS)
    if rounds is None or cells is None or PLAIN not in set(rounds["method"]):
        raise ConfigurationError(
            f"study {study.summary.study} left no costs of a method {PLAIN!r}; run configs/studies/costs.yaml first"
        )
    rounds = rounds.assign(megabytes=(rounds["bytes_down"] + rounds["bytes_up"]) / 1e6)
    by_round = rounds.groupby(["method", "seed", "round"], as_index=False).agg(
        megabytes=("megabytes", "sum"), training=("train_seconds", "sum")
    )
    by_cell = by_round.groupby(["method", "seed"], as_index=False).agg(
        rounds=("round", "nunique"),
        megabytes=("megabytes", "sum"),
        training=("training", "sum"),
    )
    by_cell = by_cell.merge(cells[["method", "seed", "seconds"]], on=["method", "seed"])
    found = by_cell.drop(columns="seed").groupby("method").mean()
    others = [method for method in study.summary.methods if method in found.index and method != PLAIN]
    return found.loc[[PLAIN, *others]]


def costs_page(study: Study, command: str) -> str:
    """The costs as Markdown, each with its ratio to the plain federation's."""
    found, told = costs_of(study), study.summary
    plain = found.loc[PLAIN]
    digests = ", ".join(f"{name} `{value[:8]}`" for name, value in sorted(told.digests.items()))
    versions = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    lines = [
        "# What each part costs",
        "",
        f"{told.data_label.upper()}, a cohort of development, of which no accuracy is reported. One training of each, "
        f"one after another in one process on {told.machine}, with seeds {', '.join(map(str, told.seeds))}.",
        "",
        f"This page is made by `{command}`; do not edit it. Repeat: "
        f"`{published_command(told.command)} --workers 1`. {told.date}; {digests}; {versions}.",
        "",
        "Bytes are of all hospitals together, up and down, over the whole study. *Training* is the hospitals' own, one "
        "after another, which in a secure sum they do not tell; *whole* is everything that the simulation does, "
        "predictions of the test patients among it. "
        "What each part gained is in [studies.md](studies.md).",
        "",
        "| part | rounds | MB | × plain | training, s | × plain | whole, s | × plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, own in found.iterrows():
        of_plain = {name: f"{own[name] / plain[name]:.2f}" for name in ("megabytes", "training", "seconds")}
        # No hospital of a secure sum tells its own times.
        training = f"{own.training:.1f} | {of_plain['training']}" if own.training else "– | –"
        lines.append(
            f"| {told.methods[str(method)].label} | {own.rounds:.0f} | {own.megabytes:.1f} | {of_plain['megabytes']} | "
            f"{training} | {own.seconds:.1f} | {of_plain['seconds']} |"
        )
    return "\n".join(lines) + "\n"


def write(
    folder: Annotated[Path, typer.Argument(help="Folder of the finished study.")] = Path("runs/costs"),
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/costs.md"),
) -> None:
    """Read a finished study's costs and write the page."""
    study = read_study(folder, (RESULTS, ROUNDS, COSTS))
    out.write_text(costs_page(study, "python benchmarks/costs.py"))
    print(f"{len(study.summary.methods)} parts -> {out}")


def main() -> None:
    """The command."""
    typer.run(write)
