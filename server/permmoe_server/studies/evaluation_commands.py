"""`permmoe-server models judged`: how finished models did at hospitals."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from permmoe.calibration.intervals import LEVELS, POOLED
from permmoe.errors import ConfigurationError
from permmoe.plain_text import plain
from permmoe.runtime.tables import print_whole
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.study_folder import Study, known_studies

if TYPE_CHECKING:
    from permmoe_server.studies.evaluation_file import Ends, EvaluationNumbers, Judged

console = Console(highlight=False, soft_wrap=True)


def show_judged(
    folder: Annotated[Path, typer.Argument(help="The federation's folder.")],
    model: Annotated[str | None, typer.Argument(help="Such as v0001; without it, all that were judged.")] = None,
) -> None:
    """Show how models did at hospitals, by combination of modalities (permmoe-server --study S --evaluate MODEL)."""
    # It needs PyTorch, which takes seconds to import; the other commands do not.
    from permmoe_server.studies.evaluation_file import EVALUATION_FILE, read_evaluation_file

    files = FederationFolder(folder)
    found = [study for study in evaluations(files, model) if (study.folder / EVALUATION_FILE).exists()]
    if not found:
        what = f"{model} was not judged yet" if model else "no model was judged yet"
        raise ConfigurationError(f"{what}; permmoe-server --study S --evaluate MODEL asks hospitals to")
    for study in found:
        numbers = read_evaluation_file(study.folder)
        print_whole(judged_table(numbers))
        for sentence in about(numbers):
            console.print(Text(plain(sentence)))
        console.print(Text(f"all figures: {study.folder / EVALUATION_FILE}\n"))


def evaluations(folder: FederationFolder, model: str | None = None) -> Iterator[Study]:
    """The federation's evaluations, of one model where it is named."""
    for study in known_studies(folder):
        asked = study.plan.evaluation
        if asked and (model is None or asked.model_name == model or asked.model_name.startswith(f"{model} of study ")):
            yield study


def judged_table(numbers: EvaluationNumbers) -> Table:
    """The figures, one combination a row."""
    plan = numbers.plan
    assert plan.evaluation
    unit, which = plan.model.score.unit, "test visits" if plan.evaluation.visits == "test" else "all visits"
    synthetic = ", SYNTHETIC DATA" if plan.is_synthetic else ""
    name = plan.evaluation.model_name or "a model"
    judged = f"{name} (the mean of {plan.members} models)" if plan.members > 1 else name
    levels = LEVELS if _has_coverage(numbers) else ()
    table = Table(
        "combination", "n", "RMSE (95%)", "MAE", "bias (95%)", *(f"in {level:.0%}" for level in levels),
        title=plain(f"{judged}, judged on {which} of {len(numbers.sites)} hospitals, {unit}{synthetic}"),
    )  # fmt: skip
    for name, row in numbers.combinations.items():
        table.add_row(Text(name), *cells(row), *(_coverage(row, level) for level in levels))
    return table


def cells(row: Judged) -> tuple[str, ...]:
    """A row without its name."""
    return (
        str(row.n), f"{row.rmse:.2f}{_ends(row.rmse_interval)}", f"{row.mae:.2f}",
        f"{row.bias:+.2f}{_ends(row.bias_interval, '+.2f')}",
    )  # fmt: skip


def about(numbers: EvaluationNumbers) -> tuple[str, ...]:
    """What has to be said beside the figures."""
    least = numbers.plan.federation.min_cell_count
    return (
        f"Study {numbers.plan.name}, {numbers.finished:%Y-%m-%d}; hospitals: {', '.join(numbers.sites)}.",
        *(f"Left out: {one}" for one in numbers.left_out),
        *_about_coverage(numbers),
        "Intervals are over patients of these hospitals; another hospital may differ. Bias: prediction − outcome. "
        f"A combination that fewer than {least} patients of a hospital have counts nobody of that hospital.",
    )


def _has_coverage(numbers: EvaluationNumbers) -> bool:
    return any(row.coverage for row in numbers.combinations.values())


def _coverage(row: Judged, level: float) -> str:
    """Such as `78%`; `74-80%`, rounded outwards, where hospitals merged sizes of errors; starred if it is pooled."""
    for found in row.coverage:
        if found.level == level:
            least, most = (round(100 * share, 6) for share in (found.least, found.most))
            share = f"{least:.0f}%" if least == most else f"{floor(least)}-{ceil(most)}%"
            return share + ("*" if found.basis == POOLED else "")
    return "none"


def _about_coverage(numbers: EvaluationNumbers) -> Iterator[str]:
    """What coverage says here or, in a sentence, why there is none."""
    if not _has_coverage(numbers):
        if numbers.has_calibration is False:
            yield "The model's card has no calibration: it gives no intervals, and none were judged."
        elif numbers.has_calibration and not numbers.plan.federation.calibrate:
            yield (
                "Hospitals were not asked whether the model's intervals hold: the study's file does not say "
                "'calibrate: true' under 'federation'."
            )
        elif numbers.has_calibration:
            yield "The model's card has too few visits for any interval, so none were judged."
        return
    levels = " and ".join(f"{level:.0%}" for level in LEVELS)
    yield (
        f"In {levels}: the share of the n visits whose outcome lay inside the interval of that level that the model's "
        "card gives everybody with the combination (also where permmoe predict gives one by severity)."
    )
    shown = [found for row in numbers.combinations.values() for found in row.coverage]
    if any(found.least < found.most for found in shown):
        yield "A range: hospitals count errors of which they have few as larger, so the share lies between its ends."
    if any(found.basis == POOLED for found in shown):
        yield "*: the card had too few of the combination, and the interval is the one pooled over all."


def _ends(ends: Ends, form: str = ".2f") -> str:
    return "" if ends is None else f" ({ends[0]:{form}} to {ends[1]:{form}})"
