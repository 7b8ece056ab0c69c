"""`permmoe data oasis3`, `aibl` and `nacc`: a registry's tables and images become a manifest, as ADNI's do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
HistoryOption = Annotated[
    float | None, typer.Option(help="How long after a subject's first visit the index visit has to be, months.")
]
ScoreOption = Annotated[str, typer.Option(help=f"The score whose change is the outcome: {', '.join(SCORES)}.")]


MciOption = Annotated[
    str, typer.Option(help="What counts as MCI: cdr (a global CDR of 0.5), or form (the clinicians' form D1).")
]


def add_to(app: typer.Typer) -> None:
    """Make the commands those of a program."""
    for name, tables, registry_of in (
        ("oasis3", "OASIS-3's tables", _oasis3),
        ("aibl", "AIBL's tables", aibl),
        ("nacc", "NACC's UDS tables", nacc),
    ):
        text = f"Turn {tables} and images into a manifest: one index visit a subject, chosen without its outcome."
        app.command(name, help=text)(_command(registry_of))


def _oasis3(mci: MciOption = "cdr") -> Registry:
    by: dict[str, MciBy] = {"cdr": "cdr", "form": "form"}
    if mci not in by:
        raise ConfigurationError(f"--mci {mci}: {nearest(mci, by)}")
    return oasis3(by[mci])


def _command(registry_of: Callable[..., Registry]) -> Callable[..., None]:
    """A registry's command. Its options are those of `registry_of`, and those that all registries have."""
    own, of_all = (inspect.signature(function, eval_str=True).parameters for function in (registry_of, _make_manifest))

    def command(**options: Any) -> None:
        registry = registry_of(**{name: options.pop(name) for name in own})
        _make_manifest(registry, **options)

    shared = [parameter for name, parameter in of_all.items() if name != "registry"]
    # Typer reads a command's options from its signature.
    command.__signature__ = inspect.Signature([*shared, *own.values()])  # type: ignore[attr-defined]
    return command


def _make_manifest(
    registry: Registry,
    tables: TablesOption,
    images: ImagesOption = None,
    out: OutOption = Path("manifest.csv"),
    horizon: HorizonOption = None,
    window: WindowOption = None,
    image_window: ImageWindowOption = None,
    diagnosis: DiagnosisOption = None,
    diagnosis_window: DiagnosisWindowOption = None,
    table_window: TableWindowOption = None,
    history_months: HistoryOption = None,
    score: ScoreOption = "cdr-sb",
    model: ModelOption = None,
) -> None:
    """Select a registry's visits by its own rule, changed by the options that are given, and write their manifest."""
    given = {
        "horizon_months": horizon,
        "window_months": window,
        "image_window_days": image_window,
        "diagnoses": tuple(diagnosis) if diagnosis else None,
        "diagnosis_window_days": diagnosis_window,
        "table_window_days": table_window,
        "history_months": history_months,
    }
    options = {name: value for name, value in given.items() if value is not None}
    rule = parse_config(registry.rule.model_dump() | options, TargetRule, "the target rule")
    settings = model_of(model)
    say(f"reading {registry.name}'s tables in {tables}" + (f" and looking for images under {images}" if images else ""))
    say(
        f"rule: first visit with {' or '.join(rule.diagnoses)}; change over {rule.horizon_months:g} ± "
        f"{rule.window_months:g} months; scans within {rule.image_window_days} days"
    )
    selection = select_visits(registry, tables, images, rule, settings.modalities, score)
    write_selection(selection, out, settings, rule.horizon_months, score)
