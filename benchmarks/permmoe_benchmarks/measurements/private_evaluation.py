"""How near a private study's own figures of its errors are to those without noise, and what its intervals are worth.

    python benchmarks/private_evaluation.py        # -> docs/private-evaluation.md

Federations of study private-2 count their errors with noise (`federation.privacy.evaluation`). The reference is the
same model on the same visits, without noise; coverage is on the test visits.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from jaxtyping import Float64

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.calibration import read_calibration
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import EDGES, ScoreCounts, count_scores, least_visits
from permmoe.config import EvaluationPrivacy, read_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.splits import Split
from permmoe.federated.private_errors import error_bins
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import all_combinations, combination_name
from permmoe.model import PerMMoE
from permmoe.runtime.provenance import versions
from permmoe_benchmarks.library.cohort import QUIET
from permmoe_benchmarks.library.scale import SHARED
from permmoe_simulation.engines.federated_training import train_federation
from permmoe_simulation.report.published_command import published_command
from permmoe_simulation.studies.cell import split_and_partition
from permmoe_simulation.studies.sources import StudyData, prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells

STUDY = Path("configs/studies/private-2.yaml")
FRESH_COHORT = 136
"""A seed that nothing was chosen on, and that no study has looked at."""
Scores = Float64[np.ndarray, "visit combination"]


@dataclass(frozen=True)
class Judged:
    """One federation's own figures, beside those without noise."""

    told: int
    """Combinations with a mean absolute error."""
    mae_errors: tuple[float, ...]
    """Of each of these, less what it is without noise, points."""
    mae_reach: tuple[float, ...]
    """Half of how far its bounds are apart, points."""
    beyond: float
    """Share of these whose bounds do not hold what it is without noise, errors over the largest counted as that; 0
    where there are none."""
    length: Mapping[float, tuple[float, ...]]
    """By level, of combinations whose interval ends: its length over that without noise."""
    held: Mapping[float, tuple[float, ...]]
    """Share of the test visits that these intervals hold for."""
    rmse: float
    """Of the model on the test visits, mean over combinations, points: without noise, at one place."""
    epsilon: float
    """The largest of any site."""


def judge(cell: Cell, data: StudyData) -> Judged:
    """Run the cell's federation and judge what it says of itself."""
    sites, _ = split_and_partition(data.visits, cell)
    with TemporaryDirectory() as folder:
        found = train_federation(cell, sites, data.cache, Path(folder))
        line = json.loads((Path(folder) / "server" / "rounds.jsonl").read_text().splitlines()[-1])
        card = json.loads((Path(folder) / "server" / "model" / "card.json").read_text())
    model = PerMMoE(cell.model)
    model.load_state_dict(dict(found.weights))
    scored = {part: _scores(model, cell, data, part) for part in ("validation", "test")}
    names = [combination_name(c) for c in all_combinations(cell.model.names)]
    unit = cell.model.unit_points
    assert cell.federation.privacy and cell.federation.privacy.evaluation
    largest = float(EDGES[error_bins(cell.federation.privacy.evaluation)[-2]])
    exact = {name: unit * float(np.nanmean(scored["test"][:, j])) for j, name in enumerate(names)}
    counted = {
        name: unit * float(np.nanmean(np.minimum(scored["test"][:, j], largest))) for j, name in enumerate(names)
    }
    own = {name: sums["absolute"] / sums["n"] for name, sums in line["test"]["sums"].items()}
    bounds = {name: found["mae"] for name, found in line["test"].get("bounds", {}).items()}
    beyond = [not low <= counted[name] <= high for name, (low, high) in bounds.items()]
    calibration = read_calibration(card, "the federation's model")
    noised = calibration.counts(cell.model.names) if calibration else ScoreCounts.none(cell.model.names, 1)
    without = _counted(cell, scored["validation"])
    length: dict[float, list[float]] = {level: [] for level in LEVELS}
    held: dict[float, list[float]] = {level: [] for level in LEVELS}
    for j, combination in enumerate(all_combinations(cell.model.names)):
        of_tests = scored["test"][:, j][~np.isnan(scored["test"][:, j])]
        for level in LEVELS:
            if noised.n(combination) < least_visits(level) or without.n(combination) < least_visits(level):
                continue
            reach = noised.quantile(combination, level)
            if np.isfinite(reach):
                length[level].append(reach / without.quantile(combination, level))
                held[level].append(float((of_tests <= reach).mean()))
    return Judged(
        len(own),
        tuple(own[name] - exact[name] for name in own),
        tuple((high - low) / 2 for low, high in bounds.values()),
        float(np.mean(beyond)) if beyond else 0.0,
        {level: tuple(values) for level, values in length.items()},
        {level: tuple(values) for level, values in held.items()},
        unit * float(np.mean(np.sqrt(np.nanmean(scored["test"] ** 2, axis=0)))),
        max(row["epsilon"] for row in found.privacy),
    )


def _scores(model: PerMMoE, cell: Cell, data: StudyData, part: Split) -> Scores:
    sites, _ = split_and_partition(data.visits, cell)
    tables = [table.where(lambda visit: visit.split == part) for table in sites.values()]
    loaded = [
        VisitData.load(table, cell.model, VolumeCache(data.cache), stem=fixed_stem(cell.model))[0]
        for table in tables
        if len(table)
    ]
    each = []
    for own in loaded:
        predictions, scales = predicted(model, own)
        each.append(np.abs(own.target.double().numpy()[:, None] - predictions) / scales)
    return np.concatenate(each)


def _counted(cell: Cell, scores: Scores) -> ScoreCounts:
    return count_scores(cell.model.names, scores, np.zeros(len(scores), np.int64), 1, [""] * len(scores))


def with_evaluation(cell: Cell, evaluation: EvaluationPrivacy) -> Cell:
    """The cell's federation, counting its errors with noise."""
    values = cell.federation.model_dump()
    values["privacy"]["evaluation"] = evaluation.model_dump()
    federation = type(cell.federation).model_validate({**values, "evaluate_every": 1, "calibrate": True})
    return cell.model_copy(update={"federation": federation})


def page(found: Mapping[str, Sequence[Judged]], bare: Mapping[str, Sequence[float]], command: str, about: str) -> str:
    """The table as Markdown. `bare`: by method the RMSE of the same federations without evaluations."""
    levels = " | ".join(f"{level:.0%}: end | length | hold" for level in LEVELS)
    lines = [
        "# What a private federation knows of its own errors",
        "",
        f"`{command}`: {about}",
        "",
        "Each federation of study `private-2` counts the errors of its test and validation patients with noise, at an "
        "ε that is the whole study's. *told*: combinations, of 15, of which anything is said behind the noise. *MAE "
        "off by*: root mean square of how far a mean absolute error that is told is from the one without noise. "
        "*bounds*: how far to either side the federation's own bounds of it reach, on average; *beyond*: share of "
        "those told that they do not hold, errors over largest_error counted as that, averaged over federations (0 "
        "where nothing is told; 5% is promised). *end*: share of combinations whose interval ends anywhere; *length*: "
        "median, over that without noise; *hold*: mean share of test visits. *RMSE*: of the model, evaluated without "
        "noise at one place, and of the same federation that evaluates nothing. Points of CDR-SB; synthetic patients.",
        "",
        f"| method | ε | told | MAE off by | bounds | beyond | {levels} | RMSE | without evaluations |",
        f"|---|---|---|---|---|---|{'---|---|---|' * len(LEVELS)}---|---|",
    ]
    for name, runs in found.items():
        errors = [error for run in runs for error in run.mae_errors]
        reach = [value for run in runs for value in run.mae_reach]
        told = f"{np.mean([run.told for run in runs]):.1f}"
        cells_ = [name, f"{max(run.epsilon for run in runs):.2f}", told, _rms(errors)]
        cells_ += [f"± {np.mean(reach):.2f}" if reach else "–", f"{np.mean([run.beyond for run in runs]):.0%}"]
        for level in LEVELS:
            length = [value for run in runs for value in run.length[level]]
            held = [value for run in runs for value in run.held[level]]
            cells_ += [f"{len(length) / (15 * len(runs)):.0%}"]
            cells_ += [f"× {np.median(length):.2f}", f"{np.mean(held):.0%}"] if length else ["–", "–"]
        cells_ += [f"{np.mean([run.rmse for run in runs]):.3f}", f"{np.mean(bare[name]):.3f}"]
        lines.append(f"| {' | '.join(cells_)} |")
    return "\n".join(lines) + "\n"


def _rms(values: Sequence[float]) -> str:
    return f"{np.sqrt(np.mean(np.square(values))):.2f}" if values else "–"


def write(
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/private-evaluation.md"),
    cohort_seed: Annotated[int, typer.Option(help="Of the synthetic cohort; 10 to 19 to choose settings on.")] = (
        FRESH_COHORT
    ),
    seeds: Annotated[int, typer.Option(help="Splits and draws of noise, from 0 on.")] = 20,
    share: Annotated[float, typer.Option(help="privacy.evaluation.share")] = EvaluationPrivacy().share,
    largest_error: Annotated[float, typer.Option(help="As above.")] = EvaluationPrivacy().largest_error,
) -> None:
    """Run the private federations of study private-2 with evaluations, judge them, and write the page."""
    evaluation = EvaluationPrivacy(share=share, largest_error=largest_error)
    study = read_config(STUDY, StudyConfig)
    assert study.data.synthetic
    cohort = study.data.synthetic.model_copy(update={"seed": cohort_seed})
    source = study.data.model_copy(update={"synthetic": cohort})
    study = study.model_copy(update={"data": source, "seeds": tuple(range(seeds))})
    data = prepare_data(study.data, study.model, SHARED, 1, QUIET)
    found: dict[str, list[Judged]] = {}
    bare: dict[str, list[float]] = {}
    for name, cell in cells(study, dict.fromkeys(study.regimes, "measured"), "inprocess"):
        if cell.method.kind != "federated" or cell.federation.privacy is None:
            continue
        found.setdefault(name, []).append(judge(with_evaluation(cell, evaluation), data))
        sites, _ = split_and_partition(data.visits, cell)
        with TemporaryDirectory() as folder:
            trained = train_federation(cell, sites, data.cache, Path(folder))
        model = PerMMoE(cell.model)
        model.load_state_dict(dict(trained.weights))
        tested = _scores(model, cell, data, "test")
        bare.setdefault(name, []).append(
            cell.model.unit_points * float(np.mean(np.sqrt(np.nanmean(tested**2, axis=0))))
        )
    about = (
        f"cohort seed {cohort_seed} (digest `{data.digest[:8]}`), training seeds 0 to {seeds - 1}, each a split and a "
        f"draw of noise, evaluation.share {share:g}, largest_error {largest_error:g}; "
        f"{', '.join(f'{name} {version}' for name, version in versions().items())}."
    )
    command = published_command(shlex.join(["python", "benchmarks/private_evaluation.py", *sys.argv[1:]]))
    out.write_text(page(found, bare, command, about))
    print(f"{sum(map(len, found.values()))} federations -> {out}")


def main() -> None:
    """The command."""
    typer.run(write)
