"""A site's moments with noise: drawn once for a study, kept, and the same bits whenever the study asks again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from jaxtyping import Int64

from permmoe.data.dataset import VisitData
from permmoe.federated.accounting import Spent
from permmoe.federated.discrete_gaussian import Below
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.moment_noise import moment_noise
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_moments import (
    RowLayout,
    block_updates,
    least_patients,
    patient_rows,
    summed_products,
)
from permmoe.federated.update import ModuleUpdate
from permmoe.layers.moments import EVERYBODY
from permmoe.model import PerMMoE
from permmoe.training.means import observed_rows, ridge_features
from permmoe_client.participation.drawn_once import drawn_once
from permmoe_client.participation.privacy_account import BudgetSpent
from permmoe_client.participation.running_site import RunningSite


@dataclass(frozen=True)
class PrivateMoments:
    """What leaves of a site's moments, and what it costs."""

    updates: Mapping[str, ModuleUpdate]
    patients: float
    """With noise."""
    spent: Spent


def private_moments(
    plan: RoundPlan, site: RunningSite, model: PerMMoE, layout: ModuleLayout, data: VisitData, least: int
) -> PrivateMoments:
    """The ridge's moments of these visits, of which a patient has one, with the noise of the study's plan.

    A site that shares the noise sends every block, whatever it has: its noise counts for the others, and which blocks
    came would tell what its patients have. One that noised its moments by itself keeps blocks of so few patients that
    they would be noise, as far as that can be told behind the noise. Raises BudgetSpent where the release would pass
    the study's target or the site's budget, and where no block is left; LedgerError where what was drawn before is
    damaged; DataError as `block_updates`.
    """
    privacy = plan.federation.privacy
    assert privacy and privacy.moments and model.ridge
    rows = RowLayout(model.ridge.sizes, privacy.moments)
    noise = moment_noise(plan.federation, rows.size)

    def draw(below: Below) -> Int64[np.ndarray, " entry"]:
        own = patient_rows(rows, ridge_features(model, data), observed_rows(data), data.baseline, data.target)
        return np.asarray(summed_products(own, rows.privacy.row_norm) + noise.drawn(below))

    triangle, spent = drawn_once("moments", plan.digest(), plan, site, noise.spent(), draw)
    # A block that does not come from a site of a shared sum would lack its noise there.
    fewest = -inf if privacy.moments.is_shared else least_patients(noise.deviation, least)
    updates = block_updates(rows, layout, triangle, fewest)
    if (everybody := updates.get(f"ridge/{EVERYBODY}")) is None:
        raise BudgetSpent("too few patients are here to count for anything once noise is added; nothing was sent")
    return PrivateMoments(updates, everybody.support, spent)
