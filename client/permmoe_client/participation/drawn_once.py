"""Sums with noise: drawn once for a question, kept, and the same bits whenever the question is asked again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
from jaxtyping import Int64

from permmoe.federated.accounting import Spent
from permmoe.federated.discrete_gaussian import Below
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import write_file
from permmoe.training.seeds import derive_seed
from permmoe_client.participation.privacy_account import check_release
from permmoe_client.participation.running_site import RunningSite
from permmoe_client.release.ledger import LedgerError
from permmoe_client.site import SiteConfig

Sums = Int64[np.ndarray, "..."]


def drawn_once(
    kind: str, question: str, plan: RoundPlan, site: RunningSite, cost: Spent, draw: Callable[[Below], Sums]
) -> tuple[Sums, Spent]:
    """The sums with noise that answer a question of a study, of the patients who have not withdrawn, and their cost.

    `draw` makes them from randomness; it is called where they were not drawn before. `kind` names their file beside the
    ledger. Raises BudgetSpent where the release would pass the study's target or the site's budget, and draws nothing;
    LedgerError where what was drawn before is damaged.
    """
    assert site.ledger
    path = _path(kind, question, site)
    sums = _read(path)
    if sums is None:
        # Before anything is drawn: a draw that may not leave is none.
        check_release(plan, site.settings, site.ledger, cost)
        sums = draw(_randomness(site.settings, path.stem))
        _keep(path, sums)
    spent = replace(cost, release=hashlib.sha256(sums.tobytes()).hexdigest())
    check_release(plan, site.settings, site.ledger, spent)
    return sums, spent


def _path(kind: str, question: str, site: RunningSite) -> Path:
    assert site.settings.ledger
    known = hashlib.sha256(f"{question} {site.withdrawals.head}".encode()).hexdigest()
    return site.settings.ledger / f"{kind}-{known}.npy"


def _read(path: Path) -> Sums | None:
    """What was drawn before, if anything was. Raises LedgerError for a damaged file: another draw is spent again."""
    try:
        return np.load(path, allow_pickle=False) if path.exists() else None
    except (ValueError, EOFError):
        raise LedgerError(
            f"{path} is damaged; restore it from the back-up that the ledger is in. Without it the study can only draw "
            "its noise again, which is spent again: that is what removing the file means"
        ) from None


def _keep(path: Path, sums: Sums) -> None:
    """Kept before anything of it can leave: drawn again, it would be spent again."""
    content = BytesIO()
    np.save(content, sums, allow_pickle=False)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(path, content.getvalue(), is_durable=True)


def _randomness(site: SiteConfig, draw: str) -> Below:
    """The operating system's, which nobody can draw again; in a simulation, which names a seed on purpose, that. Each
    `draw` has its own: two sums with the same noise differ by their patients alone."""
    if site.insecure_noise_seed is None:
        return secrets.randbelow
    return Random(derive_seed(site.insecure_noise_seed, site.name, draw)).randrange
