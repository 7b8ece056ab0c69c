"""`permmoe predict`: one patient's scans, or every visit of a manifest, from the command line to what is shown."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from permmoe.command_options import OutcomeOption, TrustOption
from permmoe.config import CDR_SB, Score, require_unharmonised
from permmoe.data.cache import VolumeCache
from permmoe.data.kinds import kind_of
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import read_outcome
from permmoe.data.preparation import prepared_as
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, nearest
from permmoe.explanation.report import require_report, write_reports
from permmoe.modality import Modality
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE, Prediction, TrainedModel, load_model, predict
from permmoe.prediction_output import NO_CALIBRATION, print_prediction, write_predictions
from permmoe.preparation.commands import require_tools
from permmoe.preparation.progress_bars import progress_bars

console = Console()


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
    if report:
        require_unharmonised(trained.config, "--report")
    score = trained.config.score
    if manifest is not None:
        if image or value or baseline is not None:
            raise ConfigurationError("give either --manifest, or --image with --baseline-cdrsb, not both")
        visits, quarantine = read_manifest(
            manifest, trained.config.modalities, need_target=False, score=score, columns=read_outcome(outcome),
            covariates=trained.config.harmonised_by,
        )  # fmt: skip
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
    if trained.calibration and any(p.intervals for p in predictions):
        for caveat in trained.calibration.caveats:
            console.print(caveat, highlight=False)
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
    """Say which images are unlike the training's, which are not harmonised, and which the model cannot compare."""
    for p in predictions:
        for name in p.unlike_training:
            typer.echo(f"warning: {p.subject_id}: {name} is unlike the training's images; look at it", err=True)
        for name, why in p.as_scanned.items():
            typer.echo(f"warning: {p.subject_id}: {name} is not harmonised and read as it is: {why}", err=True)
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
