"""A site's moments with noise: drawn once for a study, kept, and the same bits whenever the study asks again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from math import inf
from pathlib import Path
from random import Random

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
from permmoe.layers.ridge import EVERYBODY
from permmoe.model import PerMMoE
from permmoe.runtime.files import write_file
from permmoe.training.means import observed_rows, ridge_features
from permmoe.training.seeds import derive_seed
from permmoe_client.participation.privacy_account import BudgetSpent, check_release
from permmoe_client.participation.running_site import RunningSite
from permmoe_client.release.ledger import LedgerError
from permmoe_client.site import SiteConfig


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
    assert privacy and privacy.moments and model.ridge and site.ledger
    rows = RowLayout(model.ridge.sizes, privacy.moments)
    noise, path = moment_noise(plan.federation, rows.size), _path(plan, site)
    triangle = _read(path)
    if triangle is None:
        # Before anything is drawn: a draw that may not leave is none.
        check_release(plan, site.settings, site.ledger, noise.spent())
        own = patient_rows(rows, ridge_features(model, data), observed_rows(data), data.baseline, data.target)
        below = _randomness(site.settings, path.stem)
        triangle = summed_products(own, rows.privacy.row_norm) + noise.drawn(below)
        _keep(path, triangle)
    spent = replace(noise.spent(), release=hashlib.sha256(triangle.tobytes()).hexdigest())
    check_release(plan, site.settings, site.ledger, spent)
    # A block that does not come from a site of a shared sum would lack its noise there.
    fewest = -inf if privacy.moments.is_shared else least_patients(noise.deviation, least)
    updates = block_updates(rows, layout, triangle, fewest)
    if (everybody := updates.get(f"ridge/{EVERYBODY}")) is None:
        raise BudgetSpent("too few patients are here to count for anything once noise is added; nothing was sent")
    return PrivateMoments(updates, everybody.support, spent)


def _path(plan: RoundPlan, site: RunningSite) -> Path:
    """Where a study's sums with noise are kept, of the patients who have not withdrawn."""
    assert site.settings.ledger
    known = hashlib.sha256(f"{plan.digest()} {site.withdrawals.head}".encode()).hexdigest()
    return site.settings.ledger / f"moments-{known}.npy"


def _read(path: Path) -> Int64[np.ndarray, " entry"] | None:
    """What was drawn before, if anything was. Raises LedgerError for a damaged file: another draw is spent again."""
    try:
        return np.load(path, allow_pickle=False) if path.exists() else None
    except (ValueError, EOFError):
        raise LedgerError(
            f"{path} is damaged; restore it from the back-up that the ledger is in. Without it the study can only draw "
            "its noise again, which is spent again: that is what removing the file means"
        ) from None


def _keep(path: Path, triangle: Int64[np.ndarray, " entry"]) -> None:
    """Kept before anything of it can leave: drawn again, it would be spent again."""
    content = BytesIO()
    np.save(content, triangle, allow_pickle=False)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, content.getvalue(), is_durable=True)


def _randomness(site: SiteConfig, draw: str) -> Below:
    """The operating system's, which nobody can draw again; in a simulation, which names a seed on purpose, that. Each
    `draw` has its own: two sums with the same noise differ by their patients alone."""
    if site.insecure_noise_seed is None:
        return secrets.randbelow
    return Random(derive_seed(site.insecure_noise_seed, site.name, draw)).randrange
