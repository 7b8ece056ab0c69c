"""`permmoe`: make or convert data, train, evaluate and predict at one place."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, cast

import pandas as pd
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from permmoe.command_options import OutcomeOption, TrustOption
from permmoe.config import DEFAULT_RUN, MOST_MEMBERS, RunConfig, Score, read_config
from permmoe.data import commands as data_commands
from permmoe.data import registry_commands
from permmoe.data.outcome_columns import read_outcome
from permmoe.data.splits import Split
from permmoe.evaluation.harmonised import in_words
from permmoe.evaluation.results_table import results_table
from permmoe.export.commands import export
from permmoe.modality import combination_name
from permmoe.predict import load_model
from permmoe.predict_command import predict_command
from permmoe.prediction_output import said_of_calibration
from permmoe.preparation.commands import prepare
from permmoe.recalibrate import calibrate_model
from permmoe.runs import load_visits, train_run, trained_config, unlike_counts
from permmoe.runtime.command_line import VersionOption, run
from permmoe.runtime.devices import AUTO, training_device
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


DeviceOption = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where the encoder is faster on one; if it fails, the CPU."),
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
    device: DeviceOption = AUTO,
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
            device=training_device(device, gains_from_gpu=settings.model.encoder.declaration.gains_from_gpu),
            falls_back=device == AUTO,
            on_epoch=show,
            on_note=lambda sentence: typer.echo(f"note: {sentence}", err=True),
            tracking=tracking,
            weights=config.parent if config else None,
        )
    _print_results(results, Part.test, settings.model.score)
    if unlike := unlike_counts(out):
        counts = ", ".join(f"{n} {name}" for name, n in unlike.items())
        typer.echo(
            f"training images unlike the rest: {counts}; {out / 'unlike.csv'} names them: look at them", err=True
        )
    if calibration := load_model(out / "model").calibration:
        for sentence in said_of_calibration(calibration, settings.model):
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
    data, as_scanned = trained.as_read(data)
    for site, reasons in as_scanned.items():
        for sentence in in_words(reasons):
            typer.echo(f"warning: {site}: {sentence}", err=True)
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
    alone: Annotated[
        bool, typer.Option("--alone", help="Intervals of these visits by themselves; predictions stay as they are.")
    ] = False,
    outcome: OutcomeOption = None,
    trust: TrustOption = False,
    cache: CacheOption = None,
) -> None:
    """Fit a model to a hospital's own patients: ten or more change its predictions and intervals as far as they can
    tell. The calibration that it had is kept in its card."""
    found = calibrate_model(
        model, manifest, out, None if part is Part.all else cast(Split, part.value), alone=alone,
        cache=_cache_folder(cache, manifest), columns=read_outcome(outcome), are_trusted=trust,
    )  # fmt: skip
    assert found.calibration is not None
    for sentence in said_of_calibration(found.calibration, found.config):
        console.print(sentence, highlight=False)
    console.print(f"model in {out}", soft_wrap=True)


app.command("predict")(predict_command)


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
