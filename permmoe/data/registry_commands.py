"""`permmoe data oasis3`, `aibl` and `nacc`: a registry's tables and images become a manifest, as ADNI's do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.config import parse_config
from permmoe.data.commands import ModelOption, model_of, say, write_selection
from permmoe.data.registries.aibl import aibl
from permmoe.data.registries.nacc import nacc
from permmoe.data.registries.oasis3 import MciBy, oasis3
from permmoe.data.registries.registry import Registry, select_visits
from permmoe.data.registries.scores import SCORES
from permmoe.data.target_rule import TargetRule
from permmoe.errors import ConfigurationError, nearest

TablesOption = Annotated[Path, typer.Option(help="Folder with the registry's CSV tables, or one above them.")]
ImagesOption = Annotated[
    Path | None,
    typer.Option(help="Folder in BIDS or CAPS layout, or as 'permmoe data prepare' writes it; none: tables alone."),
]
OutOption = Annotated[Path, typer.Option(help="Manifest to write.")]
HorizonOption = Annotated[float | None, typer.Option(help="Months from the index visit to the outcome.")]
WindowOption = Annotated[float | None, typer.Option(help="How far from the horizon the outcome may lie, months.")]
ImageWindowOption = Annotated[
    int | None, typer.Option(help="How far from the index visit a scan, or a table's numbers of one, may lie, days.")
]
TableWindowOption = Annotated[
    int | None, typer.Option(help="How far from the index visit a row of another table may lie, days.")
]
DiagnosisOption = Annotated[list[str] | None, typer.Option(help="Accepted at the index visit; repeatable.")]
DiagnosisWindowOption = Annotated[
    int | None, typer.Option(help="How long a diagnosis holds where a visit has none, days.")
]
ScoreOption = Annotated[str, typer.Option(help=f"The score whose change is the outcome: {', '.join(SCORES)}.")]


def add_to(app: typer.Typer) -> None:
    """Make the commands those of a program."""
    for name, command in (("oasis3", oasis3_command), ("aibl", aibl_command), ("nacc", nacc_command)):
        app.command(name)(command)


def oasis3_command(
    tables: TablesOption,
    images: ImagesOption = None,
    out: OutOption = Path("manifest.csv"),
    horizon: HorizonOption = None,
    window: WindowOption = None,
    image_window: ImageWindowOption = None,
    diagnosis: DiagnosisOption = None,
    diagnosis_window: DiagnosisWindowOption = None,
    table_window: TableWindowOption = None,
    score: ScoreOption = "cdr-sb",
    mci: Annotated[
        str, typer.Option(help="What counts as MCI: cdr (a global CDR of 0.5), or form (the clinicians' form D1).")
    ] = "cdr",
    model: ModelOption = None,
) -> None:
    """Turn OASIS-3's tables and images into a manifest: one index visit a subject, chosen without its outcome."""
    by: dict[str, MciBy] = {"cdr": "cdr", "form": "form"}
    if mci not in by:
        raise ConfigurationError(f"--mci {mci}: {nearest(mci, by)}")
    options = _options(horizon, window, image_window, diagnosis, diagnosis_window, table_window)
    _make_manifest(oasis3(by[mci]), tables, images, out, options, score, model)


def aibl_command(
    tables: TablesOption,
    images: ImagesOption = None,
    out: OutOption = Path("manifest.csv"),
    horizon: HorizonOption = None,
    window: WindowOption = None,
    image_window: ImageWindowOption = None,
    diagnosis: DiagnosisOption = None,
    diagnosis_window: DiagnosisWindowOption = None,
    table_window: TableWindowOption = None,
    score: ScoreOption = "cdr-sb",
    model: ModelOption = None,
) -> None:
    """Turn AIBL's tables and images into a manifest: one index visit a subject, chosen without its outcome."""
    options = _options(horizon, window, image_window, diagnosis, diagnosis_window, table_window)
    _make_manifest(aibl(), tables, images, out, options, score, model)


def nacc_command(
    tables: TablesOption,
    images: ImagesOption = None,
    out: OutOption = Path("manifest.csv"),
    horizon: HorizonOption = None,
    window: WindowOption = None,
    image_window: ImageWindowOption = None,
    diagnosis: DiagnosisOption = None,
    diagnosis_window: DiagnosisWindowOption = None,
    table_window: TableWindowOption = None,
    score: ScoreOption = "cdr-sb",
    model: ModelOption = None,
) -> None:
    """Turn NACC's UDS tables and images into a manifest: one index visit a subject, chosen without its outcome."""
    options = _options(horizon, window, image_window, diagnosis, diagnosis_window, table_window)
    _make_manifest(nacc(), tables, images, out, options, score, model)


def _options(
    horizon: float | None,
    window: float | None,
    image_window: int | None,
    diagnosis: list[str] | None,
    diagnosis_window: int | None,
    table_window: int | None,
) -> dict[str, object]:
    """What the options change of a registry's own rule."""
    given = {
        "horizon_months": horizon,
        "window_months": window,
        "image_window_days": image_window,
        "diagnoses": tuple(diagnosis) if diagnosis else None,
        "diagnosis_window_days": diagnosis_window,
        "table_window_days": table_window,
    }
    return {name: value for name, value in given.items() if value is not None}


def _make_manifest(
    registry: Registry,
    tables: Path,
    images: Path | None,
    out: Path,
    options: dict[str, object],
    score: str,
    model: Path | None,
) -> None:
    rule = parse_config(registry.rule.model_dump() | options, TargetRule, "the target rule")
    settings = model_of(model)
    say(f"reading {registry.name}'s tables in {tables}" + (f" and looking for images under {images}" if images else ""))
    say(
        f"rule: first visit with {' or '.join(rule.diagnoses)}; change over {rule.horizon_months:g} ± "
        f"{rule.window_months:g} months; scans within {rule.image_window_days} days"
    )
    selection = select_visits(registry, tables, images, rule, settings.modalities, score)
    write_selection(selection, out, settings, rule.horizon_months, score)
