"""`permmoe`: make or convert data, train, evaluate and predict at one place."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from permmoe.config import CDR_SB, DEFAULT_RUN, MOST_MEMBERS, RunConfig, Score, read_config
from permmoe.data import commands as data_commands
from permmoe.data import registry_commands
from permmoe.data.cache import VolumeCache
from permmoe.data.kinds import kind_of
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import OUTCOME_HELP, read_outcome
from permmoe.data.preparation import prepared_as
from permmoe.data.quarantine import Quarantine
from permmoe.data.splits import Split
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, nearest
from permmoe.evaluation.results_table import results_table
from permmoe.explanation.report import require_report, write_reports
from permmoe.export.commands import export
from permmoe.modality import Modality, combination_name
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE, Prediction, TrainedModel, load_model, predict
from permmoe.prediction_output import NO_CALIBRATION, print_prediction, said_of_calibration, write_predictions
from permmoe.preparation.commands import prepare, require_tools
from permmoe.preparation.progress_bars import progress_bars
from permmoe.recalibrate import calibrate_model
from permmoe.runs import load_visits, train_run, trained_config, unlike_counts
from permmoe.runtime.command_line import VersionOption, run
from permmoe.runtime.devices import training_device
from permmoe.runtime.tables import print_whole
from permmoe.runtime.tracking.tracker import TRACK_HELP, tracking_to
from permmoe.training.fit import EpochReport

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
data_commands.app.command()(prepare)
app.command()(export)
registry_commands.add_to(data_commands.app)
app.add_typer(data_commands.app, name="data", help="Prepare scans, convert registries' tables, inspect.")
console = Console()


class Part(StrEnum):
    """Visits to evaluate on."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
OutcomeOption = Annotated[Path | None, typer.Option(help=OUTCOME_HELP)]
TrustOption = Annotated[
    bool,
    typer.Option("--images-are-prepared", help="I say that images without a sidecar were prepared as the model's."),
]
CacheOption = Annotated[Path | None, typer.Option(help="Folder of preprocessed volumes; default: beside the manifest.")]


def main() -> None:
    """The installed command."""
    run(app)


@app.callback()
def permmoe(version: VersionOption = False) -> None:
    """Make or convert data, train, evaluate and predict at one place."""


@app.command()
def train(
    manifest: Path,
    out: Annotated[Path, typer.Option(help="Folder of the results; an interrupted run in it goes on.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML: model, train, split; without it, the recipe of docs/recipes.md.")
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_MEMBERS, help="Models trained from different seeds, whose mean predicts."),
    ] = None,
    outcome: OutcomeOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    track: Annotated[str, typer.Option(help=TRACK_HELP)] = "",
) -> None:
    """Train a model on the manifest's training visits and evaluate it on its test visits."""
    settings = read_config(config, RunConfig) if config else DEFAULT_RUN
    if members is not None:
        settings = settings.model_copy(update={"members": members})
    columns = read_outcome(outcome)
    tracking = tracking_to(track, lambda sentence: typer.echo(f"warning: {sentence}", err=True))
    with Progress(
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(), console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("training", total=settings.members * settings.train.epochs, note="")

        def show(member: int, report: EpochReport) -> None:
            which = f"member {member + 1} of {settings.members}, " if settings.members > 1 else ""
            rmse = f"validation RMSE {report.validation_rmse:.3f} {settings.model.score.unit}"
            done = member * settings.train.epochs + report.epoch + 1
            progress.update(task, completed=done, note=f"{which}loss {report.loss:.3f}, {rmse}")

        results = train_run(
            manifest,
            out,
            settings,
            cache=_cache_folder(cache, manifest),
            columns=columns,
            are_trusted=trust,
            device=training_device(device),
            on_epoch=show,
            on_note=lambda sentence: typer.echo(f"note: {sentence}", err=True),
            tracking=tracking,
        )
    _print_results(results, Part.test, settings.model.score)
    if unlike := unlike_counts(out):
        counts = ", ".join(f"{n} {name}" for name, n in unlike.items())
        typer.echo(
            f"training images unlike the rest: {counts}; {out / 'unlike.csv'} names them: look at them", err=True
        )
    if calibration := load_model(out / "model").calibration:
        for sentence in said_of_calibration(calibration):
            console.print(sentence, highlight=False)
    console.print(f"model in {out / 'model'}, figures in {out / 'results.csv'}", soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    manifest: Path,
    part: Annotated[Part, typer.Option(help="Which visits, by the split that the model was trained with.")] = Part.test,
    out: Annotated[Path | None, typer.Option(help="CSV to write the table to.")] = None,
    outcome: OutcomeOption = None,
    trust: TrustOption = False,
    cache: CacheOption = None,
) -> None:
    """Evaluate a trained model on every modality combination of a manifest's visits."""
    trained = load_model(model)
    data, _ = load_visits(
        manifest, trained_config(model), _cache_folder(cache, manifest), read_outcome(outcome), are_trusted=trust
    )
    results = results_table(trained.network, data if part is Part.all else data.part(cast(Split, part.value)))
    _print_results(results, part, trained.config.score)
    if out:
        results.to_csv(out, index=False)


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    manifest: Annotated[
        Path, typer.Option(help="Visits with their outcomes, of patients who did not train the model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the calibrated model; the one that is given stays as it is.")],
    part: Annotated[Part, typer.Option(help="Which visits; other than all by the model's own split.")] = Part.all,
    outcome: OutcomeOption = None,
    trust: TrustOption = False,
    cache: CacheOption = None,
) -> None:
    """Give a model intervals from a hospital's own patients; those that it had are kept in its card."""
    found = calibrate_model(
        model, manifest, out, None if part is Part.all else cast(Split, part.value),
        cache=_cache_folder(cache, manifest), columns=read_outcome(outcome), are_trusted=trust,
    )  # fmt: skip
    for sentence in said_of_calibration(found):
        console.print(sentence, highlight=False)
    console.print(f"model in {out}", soft_wrap=True)


@app.command("predict")
def predict_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    image: Annotated[list[str] | None, typer.Option(help="MODALITY=FILE, once for each scan of one patient.")] = None,
    value: Annotated[list[str] | None, typer.Option(help="COLUMN=NUMBER of a tabular modality.")] = None,
    baseline: Annotated[
        float | None,
        typer.Option("--baseline", "--baseline-cdrsb", help="The model's score at the visit; CDR-SB: 0 to 18 points."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Predict every visit of a manifest instead.")] = None,
    outcome: OutcomeOption = None,
    trust: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV to write the predictions and their intervals to.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Page with the reasons, to read and print; with --manifest a folder of pages.")
    ] = None,
) -> None:
    """Predict the change in CDR-SB, or in the model's own score, of one patient or of every visit of a manifest."""
    if report:
        require_report(report, is_folder=manifest is not None)
    trained = load_model(model)
    score = trained.config.score
    if manifest is not None:
        if image or value or baseline is not None:
            raise ConfigurationError("give either --manifest, or --image with --baseline-cdrsb, not both")
        visits, quarantine = read_manifest(
            manifest, trained.config.modalities, need_target=False, score=score, columns=read_outcome(outcome)
        )
    else:
        if baseline is None or not score.holds(baseline):
            raise ConfigurationError(f"give {_baseline_option(score)}")
        visits, quarantine = _one_patient(trained.config.modalities, image or [], value or [], baseline), None
    with tempfile.TemporaryDirectory() as scratch:
        if manifest is None and not trust:
            visits, quarantine = _prepared(trained, visits, Path(scratch) / "prepared")
        cache = VolumeCache(Path(scratch) / "cache")
        predictions, broken = predict(trained, visits, cache, are_trusted=trust)
        if report:
            left_out = (quarantine or Quarantine()) + broken
            write_reports(report, trained, model, visits, predictions, left_out, cache, is_folder=manifest is not None)
    for item in [*(quarantine or ()), *broken]:
        typer.echo(f"not used: {item.modality or 'visit'}: {item.reason}", err=True)
    if not predictions:
        raise ConfigurationError(_nothing_to_predict(manifest, quarantine is None or len(quarantine) + len(broken)))
    _warn_of_unlike(trained, predictions)
    if out:
        write_predictions(out, predictions)
    if as_json:
        answer = {"notice": RESEARCH_NOTICE, "is_synthetic": trained.is_synthetic, "unknown": trained.unknown}
        typer.echo(json.dumps({**answer, "predictions": [asdict(p) for p in predictions]}))
        return
    if trained.is_synthetic:
        console.print(SYNTHETIC_NOTICE, style="bold")
    if trained.calibration is None:
        console.print(NO_CALIBRATION, highlight=False)
    for p in predictions:
        print_prediction(console, p, score)
    if out:
        console.print(f"predictions with their intervals in {out}", soft_wrap=True)
    if report:
        what = f"{len(predictions)} page(s) in {report}" if manifest is not None else f"page in {report}"
        console.print(f"{what}: open in a browser; not to be sent anywhere, since it shows the brain", soft_wrap=True)
    console.print(RESEARCH_NOTICE, style="bold")


def _prepared(model: TrainedModel, visits: VisitTable, folder: Path) -> tuple[VisitTable, Quarantine | None]:
    """One patient's visit, its raw images prepared as the model's were; as it is where the card does not say how."""
    modalities = [m for m in model.config.modalities if m.prepared is not None]
    if not any(prepared_as(v.volumes[m.name]) is None for v in visits for m in modalities if m.name in v.volumes):
        return visits, None
    require_tools()
    from permmoe.preparation.visits import prepare_visits

    typer.echo("preparing the scans as the model's training images were prepared; this takes a minute", err=True)
    with progress_bars() as show:
        prepared = prepare_visits(visits, modalities, folder, progress=show)
    for (_, name), sentences in prepared.to_look_at.items():
        typer.echo(f"warning: {name}: {'; '.join(sentences)}", err=True)
    return prepared.visits, prepared.left_out


def _baseline_option(score: Score) -> str:
    """The option that gives a score at the visit, and what it may be."""
    low, high = score.bounds
    option = "--baseline-cdrsb" if score == CDR_SB else "--baseline"
    scale = f"a number from {low:g} to {high:g}" if math.isfinite(low + high) else "a number"
    return f"{option}, the {score.name} at the visit: {scale} ({score.unit})"


def _nothing_to_predict(manifest: Path | None, n_left_out: int) -> str:
    if manifest is not None and not n_left_out:
        return f"{manifest} has no visit; name a manifest with at least one row under its header"
    return "nothing to predict from: no input could be used; mend the inputs named above"


def _warn_of_unlike(model: TrainedModel, predictions: list[Prediction]) -> None:
    """Say which images are unlike the training's, and which the model cannot compare."""
    for p in predictions:
        for name in p.unlike_training:
            typer.echo(f"warning: {p.subject_id}: {name} is unlike the training's images; look at it", err=True)
    if unknown := [name for name in model.unknown if any(name in p.used for p in predictions)]:
        typer.echo(
            f"warning: {', '.join(unknown)}: the model's card does not say what is usual among the training's images; "
            "these were not compared",
            err=True,
        )


def _one_patient(modalities: tuple[Modality, ...], images: list[str], values: list[str], baseline: float) -> VisitTable:
    volume_names = [m.name for m in modalities if kind_of(m).is_image]
    volumes = {}
    for name, text in _pairs(images, "--image", volume_names).items():
        volumes[name] = Path(text)
        if not volumes[name].is_file():
            raise ConfigurationError(f"--image {name}: there is no file {text}; check the path")
    columns = {c for m in modalities for c in m.columns}
    numbers: dict[str, float] = {}
    for name, text in _pairs(values, "--value", sorted(columns)).items():
        try:
            numbers[name] = float(text)
        except ValueError:
            numbers[name] = math.nan
        if not math.isfinite(numbers[name]):
            raise ConfigurationError(f"--value {name}: {text!r} is not a number")
    tables = {}
    for m in modalities:
        given = [c for c in m.columns if c in numbers]
        if given and len(given) < len(m.columns):
            raise ConfigurationError(f"modality {m.name} needs all of its columns: {', '.join(m.columns)}")
        if given:
            tables[m.name] = tuple(numbers[c] for c in m.columns)
    if not volumes and not tables:
        raise ConfigurationError(
            f"give at least one input, such as --image {(volume_names or ['NAME'])[0]}=scan.nii.gz; "
            f"this model knows {', '.join(m.name for m in modalities)}"
        )
    visit = Visit("patient", "", "", baseline, None, 0.0, volumes=volumes, tables=tables)
    return VisitTable((visit,))


def _pairs(texts: list[str], option: str, known: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, separator, rest = text.partition("=")
        if not separator or not rest:
            raise ConfigurationError(f"{option} {text!r}: expected NAME=…")
        if name not in known:
            raise ConfigurationError(f"{option} {name}: unknown name; {nearest(name, known)}")
        if name in pairs:
            raise ConfigurationError(f"{option} {name} is given twice; give each once")
        pairs[name] = rest
    return pairs


def _print_results(results: pd.DataFrame, part: Part, score: Score) -> None:
    names = results.combination.str.split("+").explode().unique()
    visits = "All visits" if part is Part.all else f"All {part.value} visits"
    table = Table("combination", "n", "RMSE (95% interval)", "MAE", "R²", title=f"{visits}, {score.in_words}")
    for row in results[results.stratum.eq("all")].itertuples():
        name = str(row.combination)
        if name == combination_name(tuple(names)):
            table.add_section()
        if row.n == 0:
            table.add_row(name, "0", "no visit has it", "", "")
        else:
            rmse = f"{row.rmse:.2f} ({row.lower:.2f} to {row.upper:.2f})"
            table.add_row(name, str(row.n), rmse, f"{row.mae:.2f}", f"{row.r2:.2f}")
    print_whole(table)


def _cache_folder(cache: Path | None, manifest: Path) -> Path:
    return cache or manifest.parent / ".permmoe-cache"
