"""Invented result files in the shape that a study writes: numbers drawn from a generator, none of them measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.study_tables import COMPARISONS, LEARNING, ROUNDS

METHODS = {
    "permmoe": ("PerM-MoE", "federated", "One router for each modality, averaged by each module's own support."),
    "flexmoe": ("Flex-MoE", "federated", "The same model with one router for all modalities."),
    "local": ("Local only", "local", "Each site trains PerM-MoE alone; the mean over sites is shown."),
    "central": ("Centralised", "centralised", "PerM-MoE on all sites' visits in one place."),
    "null": ("Clinical null", "reference", "Ridge regression on baseline CDR-SB and age; sees no image."),
    "mean": ("Training mean", "reference", "Predicts the mean change of the training visits."),
}
MODALITIES = ("t1", "flair", "amyloid", "tau")
STRATA = ("all", "small_change", "severe_baseline")


def write_study(
    folder: Path,
    *,
    methods: Sequence[str] = tuple(METHODS),
    labels: dict[str, str] | None = None,
    modalities: Sequence[str] = MODALITIES,
    regimes: Sequence[str] = ("structural",),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    synthetic: bool = True,
    n_experts: int = 7,
    n_sites: int = 11,
) -> Path:
    """Write every file that a report can read. The last combination of the stratum `severe_baseline` has no subject."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    combinations = [combination_name(c) for c in all_combinations(modalities)]
    level = {m: 1.95 - 0.5 * np.exp(-0.35 * j) for j, m in enumerate(methods)}
    _write_accuracy(folder, rng, list(methods), list(regimes), list(seeds), combinations, level)
    _write_training(folder, rng, list(methods), list(regimes), list(seeds), n_sites, level)
    _write_routing(folder, rng, list(methods), list(regimes), list(seeds), combinations, list(modalities), n_experts)
    sites = [
        {"site": f"{2 + 5 * j:03d}"}
        | {m: int(rng.integers(0, 60)) * (j % (k + 1) < 2) for k, m in enumerate(modalities)}
        | {"train": 40 + j, "validation": 7, "test": 11}
        for j in range(n_sites)
    ]
    pd.DataFrame(sites).to_csv(folder / "sites.csv", index=False)
    across, up = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 56), indexing="ij")
    head = (across**2 / 0.6 + up**2 / 0.8 < 1) * (1 + 0.4 * np.cos(9 * across) * np.cos(7 * up))
    pictures: dict[str, Any] = {
        f"{m}_{view}": head + 0.1 * rng.random(head.shape) for m in modalities for view in ("axial", "coronal")
    }
    np.savez(folder / "slices.npz", **pictures)
    summary = {
        "study": "PerM-MoE across eleven hospitals",
        "synthetic": synthetic,
        "data": "An ADNI-shaped cohort: 630 visits at 11 sites, MCI at the index visit, CDR-SB over 24 months.",
        "methods": {
            m: {
                "label": (labels or {}).get(m, METHODS.get(m, (m,))[0]),
                "kind": METHODS.get(m, ("", "federated"))[1],
                "description": METHODS.get(m, ("", "", "Another method."))[2],
            }
            for m in methods
        },
        "modalities": list(modalities),
        "findings": [
            "Federated PerM-MoE errs 0.11 points less than the clinical null model, and no less than Flex-MoE.",
            "With one modality it loses to the null model in two of four cases.",
        ],
        "goals": [
            {"claim": "Better than local training", "difference": -0.21, "lower": -0.3, "upper": -0.12, "met": True},
            {"claim": "Better than Flex-MoE", "difference": 0.01, "lower": -0.03, "upper": 0.05, "met": False},
            {
                "claim": "Within 0.05 points of centralised",
                "difference": None,
                "lower": None,
                "upper": None,
                "met": None,
            },
        ],
        "configuration": configuration() if synthetic else configuration(data={"table": "diabetes"}),
        "command": "python simulation/run.py configs/study.yaml",
        "versions": {"permmoe": "0.1.0", "torch": "2.13.0"},
        "digests": {"data": "0f" * 32, "study": "a1" * 32},
        "seeds": list(seeds),
        "seconds": 1834.2,
        "peak_memory_mb": 2210.0,
        "date": "2026-01-05",
        "failed_cells": [],
        "quarantine": {"truncated gzip": 3},
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def configuration(**changes: object) -> str:
    """A study's configuration as its summary has it, on the synthetic cohort of seed 104 unless changed."""
    study = {
        "name": "invented",
        "description": "d",
        "data": {"synthetic": {"seed": 104}},
        "model": {"modalities": [{"name": "t1", "kind": "volume"}]},
        "methods": {"permmoe": {"kind": "federated", "label": "PerM-MoE"}},
    }
    return yaml.safe_dump(study | changes)


def judged(rows: pd.DataFrame, seeds: int = 5) -> pd.DataFrame:
    """The rows with the test of an interval that is none of several: beyond chance where it excludes zero."""
    is_judged = rows["lower"].notna() & (rows["n"] >= 10) & (seeds >= 5)
    is_clear = (rows["lower"] > 0) | (rows["upper"] < 0)
    p_value = is_clear.map({True: 0.01, False: 0.5}).where(is_judged)
    return rows.assign(seeds=seeds, p_value=p_value, p_holm=p_value)


def write_axis(folder: Path, values: dict[str, float], name: str, scale: str) -> None:
    """Put the study's regimes on an axis: its differences rise from −0.2 by 0.1 a regime, each ± 0.05."""
    change_summary(folder, axis={"name": name, "values": values, "scale": scale})
    results = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    mean = results[(results["seed"] == "all") & (results["stratum"] == "all")]
    along = mean.groupby(["method", "regime"])[["rmse", "lower", "upper"]].mean().reset_index()
    along["value"] = along["regime"].map(values)
    along.assign(combination="mean", n=131).to_csv(folder / "along_axis.csv", index=False)
    comparisons = pd.read_csv(folder / "comparisons.csv", keep_default_na=False, na_values=[""])
    at = comparisons["regime"].map({regime: -0.2 + 0.1 * j for j, regime in enumerate(values)})
    comparisons = judged(comparisons.assign(difference=at, lower=at - 0.05, upper=at + 0.05))
    comparisons.to_csv(folder / "comparisons.csv", index=False)
    pairs = comparisons[["method", "reference"]].drop_duplicates()
    trends = pairs.assign(combination="mean", n=131, slope=0.1, lower=0.05, upper=0.15)
    judged(trends).to_csv(folder / "trends.csv", index=False)


def write_percent_changes(
    folder: Path, rows: Sequence[tuple[str, str, float, float, float]], wins: str, refused: Sequence[str] = ()
) -> None:
    """Percentage changes of PerM-MoE against Flex-MoE: combination, stratum, percent, lower, upper; 41 subjects each.

    `wins`: combinations, wins, lower, upper. `refused`: strata whose published size is refused beyond chance.
    """
    pair = {"method": "permmoe", "reference": "flexmoe", "regime": "structural"}
    table = pd.DataFrame(rows, columns=["combination", "stratum", "percent", "lower", "upper"])
    p_holm_size = table["stratum"].isin(refused).map({True: 0.01, False: 0.5})
    table = judged(table.assign(**pair, n=41, p_holm_size=p_holm_size))
    table.to_csv(folder / "percent_changes.csv", index=False)
    numbers = dict(zip(("combinations", "wins", "lower", "upper"), map(int, wins.split()), strict=True))
    pd.DataFrame([pair | {"stratum": "all"} | numbers]).to_csv(folder / "wins.csv", index=False)


def write_drift(folder: Path) -> None:
    rows = [{"method": m, "regime": "structural", "combination": c, "n": 29, "difference": d, "lower": d - 0.1,
             "upper": d + 0.1}
            for m, far in (("permmoe", 0.3), ("null", 0.0)) for c, d in (("mean", far / 2), ("t1", far), ("tau", 0.0))
            ]  # fmt: skip
    judged(pd.DataFrame(rows)).to_csv(folder / "drift.csv", index=False)


def change_summary(folder: Path, **changes: object) -> None:
    """Replace some of `summary.json`."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def _write_accuracy(
    folder: Path,
    rng: np.random.Generator,
    methods: list[str],
    regimes: list[str],
    seeds: list[int],
    combinations: list[str],
    level: dict[str, float],
) -> None:
    results, comparisons = [], []
    for regime in regimes:
        for stratum, share in zip(STRATA, (1.0, 0.35, 0.12), strict=True):
            scale = {"all": 1.0, "small_change": 0.6, "severe_baseline": 1.6}[stratum]
            errors: dict[tuple[str, str], float] = {}
            for j, combination in enumerate(combinations):
                is_empty = stratum == "severe_baseline" and j == len(combinations) - 1
                n = 0 if is_empty else max(3, int(share * (131 - 90 * j / len(combinations))))
                for method in methods:
                    rmse = scale * (level[method] - 0.06 * combination.count("+") + rng.normal(0, 0.04))
                    errors[method, combination] = rmse
                    for seed in [*seeds, "all"]:
                        row = {"method": method, "regime": regime, "seed": seed, "combination": combination}
                        row |= {"stratum": stratum, "n": n}
                        if n:
                            value = rmse if seed == "all" else rmse + rng.normal(0, 0.02)
                            half = 1.6 * rmse / np.sqrt(n)
                            row |= {"rmse": value, "mae": 0.75 * value, "r2": 1 - (value / (2 * scale)) ** 2}
                            row |= {"lower": value - half, "upper": value + half}
                        results.append(row)
            for reference in methods[1:4]:
                pair = {"method": methods[0], "reference": reference, "regime": regime, "stratum": stratum}
                for j, combination in enumerate(["mean", *combinations]):
                    is_empty = stratum == "severe_baseline" and j == len(combinations)
                    own = (
                        np.mean([errors[methods[0], c] for c in combinations])
                        if j == 0
                        else errors[methods[0], combination]
                    )
                    other = (
                        np.mean([errors[reference, c] for c in combinations])
                        if j == 0
                        else errors[reference, combination]
                    )
                    row = pair | {"combination": combination, "n": 0 if is_empty else 131 - 5 * min(j, 20)}
                    if not is_empty:
                        half = 0.04 if j == 0 else 0.04 + 0.006 * min(j, 20)
                        gap = own - other
                        row |= {"difference": gap, "lower": gap - half, "upper": gap + half}
                    comparisons.append(row)
    pd.DataFrame(results).to_csv(folder / "results.csv", index=False)
    table = judged(pd.DataFrame(comparisons, columns=COMPARISONS.required_columns), len(seeds))
    family = table["combination"].map({"mean": "averages"}).fillna("combinations")
    table.assign(family=family).to_csv(folder / "comparisons.csv", index=False)


def _write_training(
    folder: Path,
    rng: np.random.Generator,
    methods: list[str],
    regimes: list[str],
    seeds: list[int],
    n_sites: int,
    level: dict[str, float],
) -> None:
    rounds, learning = [], []
    for regime in regimes:
        for method in methods:
            kind = METHODS.get(method, ("", "federated"))[1]
            for seed in seeds:
                run = {"method": method, "regime": regime, "seed": seed}
                if kind != "reference":
                    for step in range(1, 21):
                        rmse = level[method] + 0.6 * np.exp(-step / 4) + rng.normal(0, 0.02)
                        step_kind = "round" if kind == "federated" else "epoch"
                        learning.append(
                            run | {"step": step, "step_kind": step_kind, "combination": "mean", "rmse": rmse}
                        )
                if kind == "federated":
                    for round_ in range(1, 4):
                        for site in range(n_sites):
                            modules = 13 + 3 * (site % 4)
                            rounds.append(
                                run
                                | {
                                    "round": round_,
                                    "site": f"{2 + 5 * site:03d}",
                                    "bytes_down": 410_000 * modules,
                                    "bytes_up": 300_000 * modules,
                                    "train_seconds": 2 + site * 0.3 + rng.random(),
                                    "overhead_seconds": 0.2 + 0.1 * rng.random(),
                                    "modules": modules,
                                }
                            )
    pd.DataFrame(rounds, columns=ROUNDS.required_columns).to_csv(folder / "rounds.csv", index=False)
    pd.DataFrame(learning, columns=LEARNING.required_columns).to_csv(folder / "learning.csv", index=False)


def _write_routing(
    folder: Path,
    rng: np.random.Generator,
    methods: list[str],
    regimes: list[str],
    seeds: list[int],
    combinations: list[str],
    modalities: list[str],
    n_experts: int,
) -> None:
    activation, routing = [], []
    for regime in regimes:
        for method in methods[:2]:
            for seed in seeds:
                run = {"method": method, "regime": regime, "seed": seed}
                routing.append(
                    run | {"load_cv": 0.4 + 0.3 * rng.random(), "collapsed_experts": int(rng.integers(0, 3))}
                )
                if seed != seeds[0]:
                    continue
                for j, combination in enumerate(combinations):
                    for k, modality in enumerate(modalities):
                        weights = rng.random(n_experts) ** 3 + 0.05
                        weights[(j + 2 * k) % n_experts] += 1.5
                        for expert, share in enumerate(weights / weights.sum()):
                            activation.append(
                                run
                                | {"combination": combination, "modality": modality, "expert": expert, "share": share}
                            )
    pd.DataFrame(activation).to_csv(folder / "activation.csv", index=False)
    pd.DataFrame(routing).to_csv(folder / "routing.csv", index=False)
