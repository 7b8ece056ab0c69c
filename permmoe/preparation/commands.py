"""`permmoe data prepare`: from what scanners wrote to what a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from permmoe.config import read_config
from permmoe.data.image_file import BrokenVolume
from permmoe.errors import ConfigurationError
from permmoe.preparation.progress_bars import progress_bars
from permmoe.preparation.scan import MODALITIES, Scan
from permmoe.preparation.settings import PreparationSettings
from permmoe.runtime.tables import print_whole

if TYPE_CHECKING:
    from permmoe.preparation.sources import FoundScans

MANIFEST = "manifest.csv"
INSTALL = "pip install --constraint constraints.txt '.[prepare]'"


def prepare(
    source: Annotated[
        list[str],
        typer.Argument(help="Folder of DICOM, a LONI download, BIDS or CAPS; or one patient's images as t1=FILE …"),
    ],
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
    subject: Annotated[str, typer.Option(help="What the patient of t1=FILE is called.")] = "subject",
    workers: Annotated[int, typer.Option(min=1, help="Subjects prepared at once; about 1.5 GB of memory each.")] = 1,
) -> None:
    """Remove the skull, register to the template, form uptake ratios, and show what became of each scan in qc.html."""
    require_tools()
    # Imported late: SimpleITK and what draws take seconds, which no other command needs.
    from permmoe.preparation.folder import prepare_folder, prepare_scans
    from permmoe.preparation.quality.summary_table import summary_table
    from permmoe.preparation.sources.series_rules import read_rules
    from permmoe.preparation.visit_table import read_scores, write_visit_table

    known = read_scores(scores) if scores else None
    chosen = read_config(settings, PreparationSettings) if settings else PreparationSettings()
    rules = read_rules(series_rules) if series_rules else None
    with progress_bars() as show:
        if _names_images(source):
            prepared = prepare_scans(_named_scans(source, subject), out, chosen, progress=show)
        else:
            prepared = prepare_folder(_folder(source), out, chosen, rules=rules, workers=workers, progress=show)
    for note in prepared.notes:
        _say(f"note: {note}")
    _say(f"{prepared.made} scan(s) were prepared, {len(prepared.images) - prepared.made} had been before")
    print_whole(summary_table(judged for _, judged in prepared.images))
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


def _names_images(source: Sequence[str]) -> bool:
    """Whether images are named one by one, as t1=FILE, and no folder."""
    return all(text.partition("=")[0] in MODALITIES and "=" in text for text in source)


def _folder(source: Sequence[str]) -> Path:
    if len(source) > 1:
        raise ConfigurationError(f"give one folder, or one patient's images as t1=FILE amyloid=FILE, not {len(source)}")
    return Path(source[0])


def _named_scans(source: Sequence[str], subject: str) -> FoundScans:
    """One patient's scans. Raises ConfigurationError for one that cannot be used."""
    from permmoe.preparation.sources import FoundScans, scan_of_file

    scans: list[Scan] = []
    for text in source:
        modality, _, file = text.partition("=")
        if any(scan.modality == modality for scan in scans):
            raise ConfigurationError(f"{modality} is given twice; give each once")
        try:
            scans.append(scan_of_file(modality, Path(file), subject_id=subject))
        except BrokenVolume as broken:
            raise ConfigurationError(f"{text}: {broken.reason}; {broken.reason.remedy}") from None
    return FoundScans(tuple(scans))


def _say(text: str) -> None:
    Console().print(escape(text), highlight=False, soft_wrap=True)
