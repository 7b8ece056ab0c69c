"""The tables of `python benchmarks/verdicts.py`, as Markdown; 300 studies a design take some five minutes."""

from __future__ import annotations

import argparse

from permmoe_benchmarks.retrained import false_verdicts
from permmoe_benchmarks.verdicts import ERRORS, ESTIMATORS, SCENARIOS, coverage_of_one_model, measured


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300, help="simulated studies of each design")
    studies = parser.parse_args().studies
    print("Intervals of one trained model's RMSE that hold the truth, of 95%\n")
    print("| errors | n = 10 | n = 40 | n = 110 | n = 400 |\n|---|---|---|---|---|")
    for errors in ERRORS:
        held = [coverage_of_one_model(errors, n, studies, seed=0) for n in (10, 40, 110, 400)]
        print(f"| {errors} | {' | '.join(f'{100 * share:.1f}%' for share in held)} |", flush=True)
    print(
        "\nIntervals over seeds and subjects that hold the truth, of 95%; and false verdicts where there is no truth\n"
    )
    print(f"| n | seeds | errors | luck | difference | splits | RMSE | percentage | {' | '.join(ESTIMATORS)} | false |")
    print(f"|{'---|' * (9 + len(ESTIMATORS))}")
    for design in SCENARIOS:
        table = measured(design, studies, seed=0).set_index(["estimator", "figure"])
        coverage = [table.loc[("two-way (ours)", name), "coverage"] for name in ("RMSE", "percentage")]
        coverage += [table.loc[(name, "difference"), "coverage"] for name in ESTIMATORS]
        false = "–" if design.harm else f"{100 * table.loc[('two-way (ours)', 'difference'), 'called']:.1f}%"
        shares = " | ".join(f"{100 * share:.1f}%" for share in coverage)
        luck, splits = f"{design.luck} in {design.features}", "anew" if design.is_split_anew else "one"
        what = f"{design.n} | {design.seeds} | {design.errors} | {luck} | {design.harm} | {splits}"
        print(f"| {what} | {shares} | {false} |", flush=True)
    print("\nTrained models against their own second trainings: pairs, and the share that is told apart\n")
    print("| verdict | pairs | one by one | after Holm, any in a report |\n|---|---|---|---|")
    for row in false_verdicts(pairs=200, seed=0).itertuples():
        print(f"| {row.verdict} | {row.pairs} | {100 * row.called:.1f}% | {100 * row.any_after_holm:.1f}% |")
