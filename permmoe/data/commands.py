"""`permmoe data`: make a synthetic cohort, turn ADNI's downloads into a manifest, look at a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from permmoe.config import ModelConfig, Score, VolumeGrid, parse_config, read_config, read_model
from permmoe.data.adni import select_visits
from permmoe.data.adni_sources import SCORE_COLUMNS
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.cohort.realism import REALISMS
from permmoe.data.image_file import BrokenVolume
from permmoe.data.manifest import manifest_header, read_manifest, unread_columns, write_manifest
from permmoe.data.outcome_columns import OUTCOME_HELP, USUAL_COLUMNS, OutcomeColumns, read_outcome
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.registries.scores import SCORES, columns_of_score
from permmoe.data.selection import Selection
from permmoe.data.summary import Distribution, summarise
from permmoe.data.synthetic import is_synthetic
from permmoe.data.target_rule import TargetRule
from permmoe.data.tracer_rule import mixed_tracers, with_read_tracers
from permmoe.data.visit_scores import score_named
from permmoe.data.visits import VisitTable
from permmoe.data.volumes import read_volume
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import combination_name
from permmoe.runtime.files import write_file
from permmoe.runtime.tables import print_whole

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

ModelOption = Annotated[
    Path | None,
    typer.Option(help="YAML of a model, a run or a study, for the modalities and the grid; ADNI's four if left out."),
]
GRIDS = {"4mm": VolumeGrid(), "2mm": VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0)}


@app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="New folder for the cohort.")],
    config: Annotated[Path | None, typer.Option(help="YAML of the cohort; the options below override it.")] = None,
    subjects: Annotated[int | None, typer.Option(help="How many subjects.")] = None,
    sites: Annotated[int | None, typer.Option(help="How many sites.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds and settings give equal bytes.")] = None,
    grid: Annotated[str | None, typer.Option(help="Voxel grid: 4mm (48×56×48) or 2mm (91×109×91).")] = None,
    layout: Annotated[str | None, typer.Option(help="Clinica's folder layout: bids or caps.")] = None,
    realism: Annotated[
        str | None, typer.Option(help=f"How like ADNI: {' or '.join(REALISMS)}; single knobs in --config.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Whole heads as scanners write them, some as DICOM, for `data prepare`.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that write at once.")] = 2,
) -> None:
    """Write a SYNTHETIC cohort shaped like ADNI: real files of invented subjects. Goes on where it was stopped."""
    given = (read_config(config, CohortConfig) if config else CohortConfig()).model_dump()
    if grid is not None and grid not in GRIDS:
        raise ConfigurationError(f"no grid {grid!r}; use {' or '.join(GRIDS)}, or name any grid in --config")
    chosen = {
        "subjects": subjects, "sites": sites, "seed": seed, "grid": GRIDS[grid] if grid else None, "layout": layout,
        "realism": realism, "raw": (given.get("raw") or {}) if raw else None,
    }  # fmt: skip
    given |= {key: value for key, value in chosen.items() if value is not None}
    cohort = parse_config(given, CohortConfig, "the cohort's settings")
    say(f"writing a synthetic cohort of {cohort.subjects} subjects into {out}")
    with _progress("subjects") as show:
        write_cohort(out, cohort, workers=workers, progress=show)
    to_manifest = f"permmoe data adni --tables {out / 'clinical'} --images {out} --out {out / 'manifest.csv'}"
    to_prepared = f"permmoe data prepare {out} --out {out.with_name(out.name + '-prepared')}"
    say(f"synthetic cohort in {out}; next: {to_manifest if cohort.raw is None else to_prepared}")


@app.command()
def adni(
    tables: Annotated[
        Path, typer.Option(help="Folder with ADNIMERGE.csv, or CDR.csv and DXSUM.csv, and the tables of the model.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder with images in BIDS or Clinica's CAPS layout; needed where a modality is an image."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Manifest to write.")] = Path("manifest.csv"),
    horizon: Annotated[float, typer.Option(help="Months from the index visit to the outcome.")] = 24.0,
    window: Annotated[float, typer.Option(help="How far from the horizon the outcome may lie, months.")] = 3.0,
    image_window: Annotated[int, typer.Option(help="How far from the index visit an image may lie, days.")] = 90,
    diagnosis: Annotated[list[str] | None, typer.Option(help="Accepted at the index visit (DX); repeatable.")] = None,
    diagnosis_window: Annotated[
        int, typer.Option(help="How long a diagnosis holds where a visit has none, days.")
    ] = TargetRule().diagnosis_window_days,
    table_window: Annotated[
        int, typer.Option(help="How far from a visit a row of another table may lie that lacks its code, days.")
    ] = TargetRule().table_window_days,
    history_months: Annotated[
        float, typer.Option(help="How long after a subject's first visit the index visit has to be, months.")
    ] = 0.0,
    score: Annotated[
        str, typer.Option(help=f"The score whose change is the outcome: {', '.join(SCORE_COLUMNS)}.")
    ] = "cdr-sb",
    model: ModelOption = None,
) -> None:
    """Turn ADNI's tables and images into a manifest: one index visit a subject, chosen without its outcome."""
    settings = model_of(model)
    rule = parse_config(
        {
            "horizon_months": horizon, "window_months": window, "image_window_days": image_window,
            "diagnoses": tuple(diagnosis or ("MCI",)), "diagnosis_window_days": diagnosis_window,
            "table_window_days": table_window, "history_months": history_months,
        },
        TargetRule,
        "the target rule",
    )  # fmt: skip
    say(f"reading tables in {tables}" + (f" and looking for images under {images}" if images else ""))
    modalities, columns = settings.modalities, settings.harmonised_by
    selection = select_visits(tables, images, rule, modalities, score_named(score), covariates=columns)
    write_selection(selection, out, settings, horizon, score)


def write_selection(selection: Selection, out: Path, model: ModelConfig, horizon_months: float, score: str) -> None:
    """Write a registry's visits as a manifest, and beside it what was left out and what was chosen; show all in counts.

    `score` is what the outcome is the change of (permmoe.data.registries.scores). Raises DataError, after the account,
    where no visit is left.
    """
    columns = columns_of_score(score)
    report, choices = out.with_suffix(".quarantine.csv"), out.with_suffix(".choices.csv")
    selection.quarantine.write(report)
    _show_steps(selection)
    selection.require_visits()
    write_manifest(selection.visits, out, model.modalities, columns, covariates=model.harmonised_by)
    if selection.choices:
        selection.write_choices(choices)
        say(f"images taken among several of one day are listed in {choices} (names patients: keep it at the site)")
    _show_summary(selection.visits, out, model.model_copy(update={"score": SCORES[score]}), horizon_months)
    _show_sources(selection)
    _show_quarantine(selection.quarantine)
    say(f"manifest in {out}; left out, with reasons, in {report} (names patients: keep it at the site)")
    if columns != USUAL_COLUMNS:
        _write_outcome(out.with_suffix(".outcome.yaml"), columns, SCORES[score])


def _write_outcome(path: Path, columns: OutcomeColumns, score: Score) -> None:
    """Which columns hold the outcome, for `--outcome`; and what a model of it has to declare."""
    write_file(path, yaml.safe_dump(columns.model_dump(exclude_defaults=True), sort_keys=False), is_durable=False)
    low, high = score.bounds
    say(
        f"the outcome is the change in {score.name}: its columns are in {path}. Train with --outcome {path} and, in "
        f"--config, model: {{score: {{name: {score.name}, lowest: {low:g}, highest: {high:g}}}, "
        f"outcome_range: [{low - high:g}, {high - low:g}]}}"
    )


@app.command()
def inspect(
    manifest: Path,
    volumes: Annotated[
        bool, typer.Option("--volumes", help="Read every image, too, and say which are broken.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="CSV to itemise the quarantine in; it names patients.")] = None,
    outcome: Annotated[Path | None, typer.Option(help=OUTCOME_HELP)] = None,
    model: ModelOption = None,
) -> None:
    """Count a manifest's visits by site, phase, modality and combination, and say what cannot be used."""
    settings = model_of(model)
    columns = read_outcome(outcome)
    visits, quarantine = read_manifest(
        manifest, settings.modalities, need_target=False, score=settings.score, columns=columns,
        covariates=settings.harmonised_by,
    )  # fmt: skip
    header = manifest_header(manifest)
    if unread := unread_columns(header, settings.modalities, columns, covariates=settings.harmonised_by):
        say(f"note: columns that nothing reads: {', '.join(unread)}")
    for sentence in mixed_tracers(visits, settings.modalities).values():
        say(f"note: {sentence}")
    visits, of_other_tracers = with_read_tracers(visits, settings.modalities)
    quarantine += of_other_tracers
    if volumes:
        quarantine += _broken_volumes(visits, settings)
    horizons = {v.horizon_months for v in visits}
    if len(visits):
        _show_summary(visits, manifest, settings, max(horizons))
    _show_quarantine(quarantine)
    if report is not None:
        quarantine.write(report)
        say(f"quarantine itemised in {report} (names patients: keep it at the site)")
    if not len(visits):
        raise DataError(f"{manifest} has no usable visit; mend what was left out, or add rows under its header")


def model_of(path: Path | None) -> ModelConfig:
    """The model of a YAML file; the default one without."""
    return read_model(path) if path else ModelConfig()


def _broken_volumes(visits: VisitTable, model: ModelConfig) -> Quarantine:
    images = [(v, m) for v in visits for m in model.modalities if m.name in v.volumes]
    items: list[Quarantined] = []
    with _progress("volumes") as show:
        for done, (visit, modality) in enumerate(images, start=1):
            path = visit.volumes[modality.name]
            try:
                read_volume(path, modality, model.grid)
            except BrokenVolume as broken:
                items.append(Quarantined(visit.subject_id, modality.name, str(path), broken.reason))
            show(done, len(images))
    return Quarantine(tuple(items))


def _show_summary(visits: VisitTable, manifest: Path, model: ModelConfig, horizon_months: float) -> None:
    names, score = model.names, model.score
    summary = summarise(visits, names)
    if is_synthetic(visits, manifest):
        say("SYNTHETIC data: invented subjects; figures say nothing about patients")
    sites = Table("site", "visits", *names, title="Visits by site and modality")
    for site, n in summary.by_site.items():
        sites.add_row(site, str(n), *(str(summary.modality_by_site[site][name]) for name in names))
    sites.add_section()
    sites.add_row("all", str(summary.visits), *(str(summary.by_modality[name]) for name in names))
    combinations = Table("combination", "visits", title="Visits by combination of modalities")
    for combination, n in summary.by_combination.items():
        combinations.add_row(combination_name(combination), str(n))
    groups = Table("phase or split", "visits", title="Visits by phase and split")
    for phase, n in summary.by_phase.items():
        groups.add_row(phase or "no phase", str(n))
    groups.add_section()
    for split, n in summary.by_split.items():
        groups.add_row(split or "not yet split", str(n))
    header = (f"{score.name}, {score.unit}", "n", "mean", "SD", "quartiles", "zero", "negative")
    labels = Table(*header, title="Labels")
    labels.add_row("at the visit", *_cells(summary.baseline))
    labels.add_row(f"change at {horizon_months:g} months", *_cells(summary.delta))
    for table in (sites, combinations, groups, labels):
        print_whole(table)


def _cells(d: Distribution) -> tuple[str, ...]:
    if d.n == 0:
        return ("0", *[""] * 5)
    quartiles = " / ".join(f"{q:.1f}" for q in d.quartiles)
    return str(d.n), f"{d.mean:.2f}", f"{d.deviation:.2f}", quartiles, f"{d.zero_share:.0%}", f"{d.negative_share:.0%}"


def _show_quarantine(quarantine: Quarantine) -> None:
    if not len(quarantine):
        say("nothing was left out")
        return
    table = Table("reason", "count", title="Left out")
    for reason, n in quarantine.counts().items():
        table.add_row(reason, str(n))
    print_whole(table)


def _show_steps(selection: Selection) -> None:
    for what, n in selection.steps.items():
        say(f"{n} subjects {what}")
    for note in selection.notes:
        say(f"note: {note}")


def _show_sources(selection: Selection) -> None:
    """Which file and column each column of the manifest comes from."""
    if selection.given_by:
        table = Table(title="Where numbers come from")
        for name in ("column of the manifest", "file: column", "visits"):
            table.add_column(name, overflow="fold")
        for column, sources in selection.given_by.items():
            for source, n in sources.items():
                table.add_row(column, str(source), str(n))
        print_whole(table)


def say(text: str) -> None:
    """Show a text as it is, without markup."""
    Console().print(escape(text), highlight=False, soft_wrap=True)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
