"""The page of an attack study: every section says its finding in a sentence, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from permmoe.layers.encoders import pooled_cells
from permmoe_simulation.attacks.detection import LOW_FALSE_POSITIVES, Detection, allowed_auc, detection
from permmoe_simulation.attacks.games import NONE, SECURE, Picture, private, protections
from permmoe_simulation.attacks.membership import SCORES
from permmoe_simulation.attacks.study import AttackStudy
from permmoe_simulation.report.content import Entry, Plot, Section, Table, Text, interval, number
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.style import (
    INK,
    MUTED,
    RULE,
    WIDTH,
    Look,
    add_legend,
    canvas,
    drawn,
    legend_height,
    method_looks,
    place,
)


@dataclass(frozen=True)
class Membership:
    """How well the better of the two scores tells members, by protection."""

    by_protection: Mapping[str, Detection]
    score: Mapping[str, str]
    """Which score it was."""


def judge_membership(study: AttackStudy, trials: pd.DataFrame) -> Membership:
    """The attacker's better score, which favours the attacker."""
    best: dict[str, Detection] = {}
    score: dict[str, str] = {}
    for protection in protections(study):
        rows = trials[trials["protection"] == protection].sort_values("trial")
        worlds = {world: rows[rows["world"] == world] for world in ("in", "out")}
        for name in SCORES:
            found = detection(
                worlds["in"][name].to_numpy(), worlds["out"][name].to_numpy(), study.resamples, study.seed
            )
            if protection not in best or found.auc.estimate > best[protection].auc.estimate:
                best[protection], score[protection] = found, name
    return Membership(best, score)


def membership_section(study: AttackStudy, membership: Membership) -> Section:
    """Was this patient in it?"""
    names = protections(study)
    looks = method_looks(dict.fromkeys(names, "federated"))
    found = membership.by_protection
    bounds = {private(e): allowed_auc(e, study.delta) for e in study.epsilons}
    bounds[names[-1]] = bounds[private(study.epsilons[0])]
    rows = [
        [
            Entry(name),
            Entry(number(found[name].auc.estimate), interval(found[name].auc.lower, found[name].auc.upper)),
            Entry(number(bounds.get(name, 1.0))),
            Entry(
                number(found[name].true_positives.estimate),
                interval(found[name].true_positives.lower, found[name].true_positives.upper),
            ),
            Entry(membership.score[name].replace("_", " ")),
        ]
        for name in names
    ]
    marks = [
        Mark(i, found[name].auc.estimate, looks[name], found[name].auc.lower, found[name].auc.upper)
        for i, name in enumerate(names)
    ]
    low = found[NONE].auc
    finding = (
        f"Without protection the attacker tells whether the canary was in a site's round with AUC "
        f"{number(low.estimate)} "
        f"({interval(low.lower, low.upper)}); behind the secure sum over {study.sites} sites with "
        f"{number(found[SECURE].auc.estimate)}"
        + "".join(
            f"; with {private(e)} for the round with {number(found[private(e)].auc.estimate)}" for e in study.epsilons
        )
        + ". 0.5 is guessing."
    )
    return Section(
        "membership",
        "Was this patient in it?",
        [
            Text(finding),
            Plot(
                row_plot(
                    [Row(name) for name in names],
                    [Panel("", "AUC of the better attack (0.5: guessing)", marks)],
                    study.model.names,
                ),
                f"Dot plot of the attack's AUC by protection: {finding}",
                f"AUC with 95% intervals over {study.membership_trials} synthetic trials.",
            ),
            Plot(
                _roc_figure({name: found[name] for name in names}, looks),
                "ROC curves of the attack, one for each protection.",
                "Share of members found against share of others accused. The dashed line is guessing.",
            ),
            Table(
                f"The attack by protection. The bound is what any attack could reach at that ε; TPR is the share of "
                "members "
                f"found where {number(100 * LOW_FALSE_POSITIVES, 0)}% of the others are accused.",
                ["Protection", "AUC", "Bound", "TPR", "Better score"],
                rows,
            ),
        ],
    )


def inversion_section(study: AttackStudy, trials: pd.DataFrame, pictures: Sequence[Picture]) -> Section:
    """What did the image look like?"""
    rows = []
    for protection in protections(study):
        cells = [Entry(protection)]
        for visits in study.inversion_visits:
            chosen = trials[(trials["protection"] == protection) & (trials["visits"] == visits)]
            cells.append(
                Entry(number(chosen["likeness"].mean()), f"named in {number(100 * chosen['is_named'].mean(), 0)}%")
            )
        rows.append(cells)

    def mean(protection: str, visits: int) -> float:
        chosen = trials[(trials["protection"] == protection) & (trials["visits"] == visits)]
        return float(chosen["likeness"].mean()) if len(chosen) else nan

    few = study.inversion_visits[0]
    others = trials[trials["protection"] == NONE]["likeness_of_others"].mean()
    finding = (
        f"From the update of a site with {few} visit{'s' * (few > 1)} the attacker draws an image that correlates "
        f"{number(mean(NONE, few))} with a patient's own; behind the secure sum {number(mean(SECURE, few))}, with "
        f"{private(study.epsilons[0])} {number(mean(private(study.epsilons[0]), few))}. The likest image of a "
        "patient who was "
        f"not there reaches {number(others)}."
    )
    return Section(
        "inversion",
        "What did the image look like?",
        [
            Text(finding),
            Plot(
                _gallery([p for p in pictures if p.visits == few], pooled_cells(study.model)),
                f"Middle axial slices: a synthetic patient's image and its reconstructions. {finding}",
                f"Middle axial slice of one synthetic subject's {study.modality} image as the encoder gets it "
                "(difference from "
                "the mean brain), and what the attacker draws from the round.",
            ),
            Table(
                "Correlation of the reconstruction with the likest image of the site, mean over trials, and in how "
                "many trials it is the likest of the whole cohort's; by training visits of the site. What fewer than "
                f"{study.least_patients} patients trained leaves only a site that lowered its min_cell_count.",
                ["Protection", *(f"{n} visit{'s' * (n > 1)}" for n in study.inversion_visits)],
                rows,
            ),
        ],
    )


def limits_section(study: AttackStudy) -> Section:
    """What all this does not show."""
    return Section(
        "limits",
        "What this does not show",
        [
            Text(
                "Attacks that fail do not make a system safe: stronger ones exist, among them attacks over many "
                "rounds, with "
                "shadow models, or with optimisation instead of closed forms. An attack that succeeds is proof of a "
                "leak; "
                "only ε bounds what any attack can do, and the bound is drawn beside each."
            ),
            Text(
                f"The canary is no ordinary patient: an outcome of {study.canary_points:g} points is easy to find "
                "on purpose. Sites "
                f"are small ({study.membership_visits} visits and the canary), rounds are the first from fresh "
                "weights, where an "
                "update says most. Larger sites and later rounds leak less. Reconstructions are of pooled voxels, "
                "which is "
                "what the default encoder sees; they hold no finer detail."
            ),
            Text(
                "The secure sum hides one site among the sites of the round. It does not lower what the sum, or the "
                "model, "
                "says about a patient. The patients here are synthetic; real anatomy may be more distinctive."
            ),
        ],
    )


@drawn
def _roc_figure(found: Mapping[str, Detection], looks: Mapping[str, Look]) -> Figure:
    top, side, foot = legend_height(list(found)), 3.6, 0.5
    figure = canvas(top + side + foot + 0.1)
    axes = place(figure, 0.6, foot, min(side * 1.2, WIDTH - 1), side)
    axes.plot([0, 1], [0, 1], linestyle="--", color=RULE, linewidth=1)
    for name, one in found.items():
        axes.plot(one.false_positive_rate, one.true_positive_rate, color=looks[name].colour, linewidth=1.4)
    axes.set_xlabel("share of others accused")
    axes.set_ylabel("share of members found")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    add_legend(figure, [(name, looks[name]) for name in found])
    return figure


@drawn
def _gallery(pictures: Sequence[Picture], cells: tuple[int, int, int]) -> Figure:
    """The true image first, then each protection's reconstruction with the sign that fits best."""
    shown = [("true image", pictures[0].true, ""), *((p.protection, p.found, f"{p.likeness:.2f}") for p in pictures)]
    size = min(1.6, (WIDTH - 0.1 * len(shown)) / len(shown))
    figure = canvas(size + 0.5)
    for j, (title, image, like) in enumerate(shown):
        axes = place(figure, j * (size + 0.1), 0.15, size, size)
        axes.set_axis_off()
        if image is None:
            axes.text(0.5, 0.5, "not released", ha="center", color=MUTED, transform=axes.transAxes)
        else:
            volume = image.reshape(cells).numpy()
            if j and float(np.corrcoef(volume.ravel(), pictures[j - 1].true.numpy())[0, 1]) < 0:
                volume = -volume
            picture = volume[:, :, cells[2] // 2]
            reach = float(np.abs(picture).max()) or 1.0
            axes.imshow(picture.T, cmap="gray", origin="lower", vmin=-reach, vmax=reach, interpolation="bicubic")
        axes.set_title(f"{title}\n{like}".strip(), loc="left", pad=3, color=INK)
    return figure
