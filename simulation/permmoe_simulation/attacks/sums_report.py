"""The sections of an attack study about sums: what differences of them tell about one patient, or one site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from permmoe_simulation.attacks.crafted import READ_WITHIN
from permmoe_simulation.attacks.differencing import ADDED, AFTER, BEFORE, NESTED, WITHDRAWN
from permmoe_simulation.attacks.participants import ParticipantsGame
from permmoe_simulation.attacks.study import AttackStudy
from permmoe_simulation.report.content import Entry, Section, Table, Text, number


def differencing_section(study: AttackStudy, trials: pd.DataFrame, isolating: Mapping[str, int]) -> Section:
    """Which patients' outcomes follow from sums over many?"""

    def of(attack: str, rule: str) -> pd.DataFrame:
        return trials[(trials["attack"] == attack) & (trials["rule"] == rule)]

    rows = []
    for attack in (NESTED, WITHDRAWN, ADDED):
        cells = [Entry(attack)]
        for rule in (BEFORE, AFTER):
            chosen = of(attack, rule)
            hit, errors = int((chosen["recovered"] > 0).sum()), chosen["largest_error_points"].dropna()
            worst = f"to within {errors.max():.0e} points" if len(errors) else "nobody recovered"
            cells.append(Entry(f"{hit} of {len(chosen)}", worst, is_strong=hit > 0))
        cells.append(Entry(number(100 * of(attack, AFTER)["sums"].sum() / of(attack, BEFORE)["sums"].sum(), 0) + "%"))
        cells.append(
            Entry(number(100 * of(attack, AFTER)["patients"].sum() / of(attack, BEFORE)["patients"].sum(), 0) + "%")
        )
        rows.append(cells)
    plans = [
        Entry("random sequences of questions"),
        *(
            Entry(f"{isolating[rule]:,} of {study.query_plans:,}", is_strong=isolating[rule] > 0)
            for rule in (BEFORE, AFTER)
        ),
        Entry("–"),
        Entry("–"),
    ]
    nested = {rule: int((of(NESTED, rule)["recovered"] > 0).sum()) for rule in (BEFORE, AFTER)}
    finding = (
        f"From one evaluation whose sums are each over {study.least_patients} patients or more, outcomes of fewer "
        f"follow at {nested[BEFORE]} of {study.differencing_trials} hospitals where each sum is looked at by itself, "
        f"and at {nested[AFTER]} with the release account. Of {study.query_plans:,} random sequences of questions "
        f"{isolating[BEFORE]:,} isolate fewer than {study.least_patients} patients without the account and "
        f"{isolating[AFTER]:,} with it."
    )
    return Section(
        "differencing",
        "Which patients follow from sums over many?",
        [
            Text(finding),
            Table(
                f"Hospitals of {study.hospital_visits} synthetic visits at which the sum of the outcomes of fewer than "
                f"{study.least_patients} patients follows from differences of released sums, and what is left of an "
                "honest evaluation.",
                ["Attack", "Each sum by itself", "Release account", "Sums left", "Patients left"],
                [*rows, plans],
            ),
        ],
    )


def crafted_section(study: AttackStudy, trials: pd.DataFrame) -> Section:
    """What do models of the coordinator's own making read?"""
    rows = []
    for rule in (BEFORE, AFTER):
        chosen = trials[trials["rule"] == rule]
        error = chosen["median_error"].median()
        rows.append(
            [
                Entry("as clients were before" if rule == BEFORE else "as clients are"),
                Entry(f"{chosen['answered'].sum()} of {chosen['asked'].sum()}"),
                Entry(f"{chosen['read'].sum()} of {chosen['voxels'].sum()}", is_strong=bool(chosen["read"].sum())),
                Entry("–" if pd.isna(error) else f"{error:.0e}"),
            ]
        )
    before, after = (trials[trials["rule"] == rule] for rule in (BEFORE, AFTER))
    error = before["median_error"].median()
    finding = (
        f"With models that let one voxel through at a time, asked as rounds that the study does not have, "
        f"{before['read'].sum()} of {before['voxels'].sum()} voxels of a patient are read to within {READ_WITHIN:g} of "
        f"the volume's unit, with a median error of {error:.0e}. A hospital that holds to its plan answers "
        f"{after['answered'].sum()} of these {after['asked'].sum()} questions."
    )
    return Section(
        "crafted",
        "What do crafted models read?",
        [
            Text(finding),
            Table(
                "Evaluations of crafted models at a hospital with one patient who lacks a modality that all others "
                f"have; {study.crafted_cells} voxels of {study.modality} in each of {study.crafted_trials} trials.",
                ["Hospital", "Questions answered", "Voxels read", "Median error"],
                rows,
            ),
        ],
    )


def participants_section(study: AttackStudy, games: Sequence[ParticipantsGame]) -> Section:
    """Which site's own numbers follow from secure sums?"""
    colluding = sorted({game.n_colluding for game in games})
    rows = []
    for least in sorted({game.least_difference for game in games}):
        of_rule = {game.n_colluding: game for game in games if game.least_difference == least}
        rows.append(
            [
                Entry(str(least) + (" (no rule)" if least == 1 else "")),
                *(
                    Entry(f"{of_rule[n].exposed:,} of {of_rule[n].plans:,}", is_strong=of_rule[n].exposed > 0)
                    for n in colluding
                ),
                Entry(number(100 * of_rule[colluding[0]].answered, 0) + "%"),
            ]
        )
    alone = {game.least_difference: game for game in games if game.n_colluding == 0}
    helped = next(game for game in games if game.least_difference == 2 and game.n_colluding == 1)
    finding = (
        "A server that chooses who takes part in each secure sum learns some site's own numbers in "
        f"{alone[1].exposed:,} of {alone[1].plans:,} random plans, and in {alone[2].exposed:,} where sums may not "
        f"differ by fewer than two sites. One site that works with it, or is its own, is enough to learn them in "
        f"{helped.exposed:,}; a difference of three withstands one such site."
    )
    return Section(
        "participants",
        "Which site follows from secure sums?",
        [
            Text(finding),
            Table(
                "Random plans in which an honest site is exposed, by min_cohort_difference and by the number of sites "
                f"that collude with the server or are Sybils; {study.federation_sites} sites, the first sum is over "
                "all, each later one over a random choice of three or more. A plan's sums are answered where the rule "
                "allows.",
                ["min_cohort_difference", *(f"{n} colluding" for n in colluding), "Sums answered"],
                rows,
            ),
        ],
    )
