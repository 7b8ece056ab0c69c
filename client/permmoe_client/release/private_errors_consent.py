"""What the approval of a study says of evaluations with noise: what is counted, and what it costs a patient."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from permmoe.federated.accounting import Spent
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import error_noise


def private_errors_in_words(plan: RoundPlan) -> str:
    """What the site counts and sends. The study has `privacy.evaluation`."""
    federation, noise = plan.federation, error_noise(plan)
    privacy = federation.privacy
    assert privacy and privacy.evaluation
    when = "After the round" if federation.rounds == 1 else f"Every {federation.evaluate_every} round(s)"
    whose = "its share of the noise" if noise.shares > 1 else "noise"
    use = " Mean errors and the intervals of the model's predictions" if federation.calibrate else " Mean errors"
    return (
        f"{when}, of the validation patients, and after the last of the test patients: how many have an error of which "
        f"size, for each combination of modalities ({noise.bins} sizes of {noise.combinations} combinations), with "
        f"{whose} on each number (SD {sqrt(noise.variance):.1f} patients), drawn once for each evaluation."
        f"{use} follow from these numbers. No number is held back for being over few patients: the noise covers each "
        f"single one. Evaluations have {privacy.evaluation.share:.0%} of the privacy that the study may cost; every "
        "patient is charged with all of it, whichever part of the split he is in."
    )


def evaluations_spent(plan: RoundPlan, shares: int | None = None) -> tuple[Spent, ...]:
    """What all evaluations of a study cost a patient; nothing where there are none. `shares`: had only so many sites
    added noise."""
    if not plan.federation.has_private_evaluations:
        return ()
    return (replace(error_noise(plan).spent(shares), steps=plan.federation.n_evaluations),)
