"""`permmoe data prepare`: from what scanners wrote to what a model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.preparation.settings import PreparationSettings

MANIFEST = "manifest.csv"
INSTALL = "pip install --constraint constraints.txt '.[prepare]'"


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of DICOM, a LONI download, BIDS or CAPS.")],
    out: Annotated[Path, typer.Option(help="Folder of the prepared images; an interrupted preparation in it goes on.")],
    settings: Annotated[
        Path | None, typer.Option(help="YAML: spacing_mm, and regions, the reference regions of PET by tracer.")
    ] = None,
    series_rules: Annotated[
        Path | None, typer.Option(help="YAML of rules by which series are chosen, in place of the shipped ones.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="CSV with subject_id, visit_date and the columns of a manifest that are not images."),
    ] = None,
    site: Annotated[str, typer.Option(help="Site of subjects whose scores and identifier tell none.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Subjects prepared at once; about 3 GB of memory each.")] = 1,
) -> None:
    """Remove the skull, register to the template, form uptake ratios, and show what became of each scan in qc.html."""
    require_tools()
    # Imported late: SimpleITK and what draws take seconds, which no other command needs.
    from permmoe.preparation.folder import prepare_folder
    from permmoe.preparation.quality.summary_table import summary_table
    from permmoe.preparation.sources.series_rules import read_rules
    from permmoe.preparation.visit_table import read_scores, write_visit_table

    known = read_scores(scores) if scores else None
    chosen = read_config(settings, PreparationSettings) if settings else PreparationSettings()
    rules = read_rules(series_rules) if series_rules else None
    _say(f"looking for scans under {source}")
    columns = (TextColumn("scans"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("scans", total=None)
        prepared = prepare_folder(
            source, out, chosen, rules=rules, workers=workers,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    for note in prepared.notes:
        _say(f"note: {note}")
    _say(f"{prepared.made} scan(s) were prepared, {len(prepared.images) - prepared.made} had been before")
    Console().print(summary_table(judged for _, judged in prepared.images))
    for reason, n in prepared.left_out.counts().items():
        _say(f"left out: {n}: {reason}; {reason.remedy}")
    _say(f"images in {out}; look at {out / 'qc.html'} (both show patients: keep them at the site)")
    manifest = out / MANIFEST
    if known is not None or not manifest.exists():
        unmatched = write_visit_table(manifest, prepared.usable, known, site)
        for reason, n in unmatched.counts().items():
            _say(f"not in {MANIFEST}: {n}: {reason}; {reason.remedy}")
    if known is not None:
        _say(f"next: permmoe train {manifest} --out runs/mine")
    else:
        _say(f"next: permmoe data adni --tables TABLES --images {out}, or the same of another registry; for a table of")
        _say(f"your own fill the scores of {manifest} in, or name them by --scores")


def require_tools() -> None:
    """Raise ConfigurationError where what the preparation needs is not installed."""
    from importlib.util import find_spec

    if absent := [name for name in ("deepbet", "SimpleITK", "dcm2niix", "pydicom", "PIL") if find_spec(name) is None]:
        raise ConfigurationError(
            f"the preparation of images needs {', '.join(absent)}; install what it needs: {INSTALL}",
            for_log="packages of the preparation are not installed",
        )


def _say(text: str) -> None:
    Console().print(escape(text), highlight=False, soft_wrap=True)
