"""`python simulation/privacy_attacks.py [STUDY.yaml]`: play the games and write the report."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import track

from permmoe.config import read_config
from permmoe.data.adni import adni_visits
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import write_cohort
from permmoe.data.dataset import VisitData
from permmoe.data.target_rule import TargetRule
from permmoe.layers.encoders import fixed_stem
from permmoe.runtime.command_line import run
from permmoe.runtime.devices import AUTO, CPU, on_device, training_device
from permmoe.runtime.provenance import machine, versions
from permmoe_simulation.attacks.crafted import crafted_trial
from permmoe_simulation.attacks.differencing import differencing_trial, isolating_query_plans
from permmoe_simulation.attacks.games import Picture, inversion_trial, membership_trial
from permmoe_simulation.attacks.participants import participants_game
from permmoe_simulation.attacks.report import (
    inversion_section,
    judge_membership,
    limits_section,
    membership_section,
)
from permmoe_simulation.attacks.study import AttackStudy
from permmoe_simulation.attacks.sums_report import crafted_section, differencing_section, participants_section
from permmoe_simulation.report.content import Listing, Section, Text
from permmoe_simulation.report.page import rendered
from permmoe_simulation.summary import MethodSummary, Summary

T = TypeVar("T")
STUDY = Path(__file__).parents[3] / "configs" / "attacks" / "one-round.yaml"


def attack(
    study: Annotated[Path, typer.Argument(help="The attack study's YAML file.")] = STUDY,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; runs/<study> if left out.")] = None,
    device: Annotated[str, typer.Option(help="Where sites train: cpu, cuda, cuda:N or auto.")] = CPU,
) -> None:
    """Play every trial on a synthetic cohort, then write its tables and report.html."""
    torch.set_num_threads(1)
    started, console = time.monotonic(), Console(highlight=False, soft_wrap=True)
    settings = read_config(study, AttackStudy)
    chosen = training_device(device, gains_from_gpu=settings.model.encoder.declaration.gains_from_gpu)

    def played(trial: Callable[[str], T]) -> T:
        return on_device(chosen, trial, falls_back=device == AUTO)

    folder = out or Path("runs") / settings.name
    data = _cohort(settings, folder)
    rows = [
        row
        for trial in track(range(settings.membership_trials), "membership", console=console)
        for row in played(partial(membership_trial, settings, data, trial))
    ]
    membership = pd.DataFrame(rows)
    membership.to_csv(folder / "membership.csv", index=False)
    # Only patients who have the image can be the ones that it is drawn of.
    imaged = data.subset(data.observed[:, data.names.index(settings.modality)].nonzero().flatten())
    inputs = (
        imaged.inputs[settings.modality].read(imaged.stored_rows[:, data.names.index(settings.modality)]).flatten(1)
    )
    images = inputs - inputs.mean(0)
    found: list[dict[str, object]] = []
    pictures: list[Picture] = []
    games = [(n, trial) for n in settings.inversion_visits for trial in range(settings.inversion_trials)]
    for visits, trial in track(games, "inversion", console=console):
        trials, drawn = played(partial(inversion_trial, settings, imaged, images, visits, trial))
        found += trials
        pictures += drawn if trial == 0 else []
    inversion = pd.DataFrame(found)
    inversion.to_csv(folder / "inversion.csv", index=False)
    sections = [
        membership_section(settings, judge_membership(settings, membership)),
        inversion_section(settings, inversion, pictures),
        *_sums_sections(settings, data, folder, console),
        limits_section(settings),
    ]
    findings = tuple(s.items[0].text for s in sections[:-1] if isinstance(s.items[0], Text))
    summary = Summary(
        study=settings.name,
        synthetic=True,
        methods={"attack": MethodSummary(label="attack")},
        modalities=settings.model.names,
        findings=findings,
        date=time.strftime("%Y-%m-%d"),
    )
    page = rendered(summary, [*sections, _repeat(settings)])
    (folder / "report.html").write_text(page, encoding="utf-8", newline="\n")
    for sentence in findings:
        console.print(sentence, markup=False)
    console.print(
        f"{settings.name}: synthetic data; {time.monotonic() - started:.0f} s, report: {folder / 'report.html'}"
    )


def _sums_sections(settings: AttackStudy, data: VisitData, folder: Path, console: Console) -> list[Section]:
    """Play the games about sums: over patients, with crafted models, and over sites."""
    differencing = pd.DataFrame(
        row
        for trial in track(range(settings.differencing_trials), "differencing", console=console)
        for row in differencing_trial(settings, data, trial)
    )
    crafted = pd.DataFrame(
        row
        for trial in track(range(settings.crafted_trials), "crafted models", console=console)
        for row in crafted_trial(settings, data, trial)
    )
    isolating = isolating_query_plans(settings.query_plans, settings.least_patients, settings.seed)
    games = [
        participants_game(settings.query_plans, settings.federation_sites, least, n_colluding, settings.seed)
        for least in (1, 2, 3)
        for n_colluding in (0, 1, 2)
    ]
    differencing.to_csv(folder / "differencing.csv", index=False)
    crafted.to_csv(folder / "crafted.csv", index=False)
    pd.DataFrame([vars(game) for game in games]).to_csv(folder / "participants.csv", index=False)
    return [
        differencing_section(settings, differencing, isolating),
        crafted_section(settings, crafted),
        participants_section(settings, games),
    ]


def _cohort(settings: AttackStudy, folder: Path) -> VisitData:
    cohort = folder / "cohort"
    if not (cohort / "clinical").exists():
        write_cohort(cohort, settings.cohort)
    table, _ = adni_visits(cohort / "clinical", cohort, TargetRule(), settings.model.modalities)
    known = table.where(lambda visit: visit.delta_cdrsb is not None)
    data, _ = VisitData.load(known, settings.model, VolumeCache(folder / "cache"), stem=fixed_stem(settings.model))
    return data


def _repeat(settings: AttackStudy) -> Section:
    command = shlex.join(["python", "simulation/privacy_attacks.py", *sys.argv[1:]])
    facts = f"Seed {settings.seed}; study digest {settings.digest()[:8]}; {machine()}; {versions()}."
    return Section("repeat", "Run it again", [Listing(command), Text(facts), Text(settings.description)])


def main() -> None:
    """What `simulation/privacy_attacks.py` runs."""
    run(lambda: typer.run(attack))
