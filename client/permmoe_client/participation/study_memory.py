"""What a study keeps at its site between rounds, and never sends: private modules, the site's own drift, and what the
format of the wire took away from its changes.

Each study has a checkpoint in the folder that the site names for it. A round whose reply got lost is trained again from
what is here: private modules have then seen the site's visits once more, the shared ones have not.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe_client.site import SiteConfig

STUDY_DIGITS = 16
"""Of a study's digest, in the name of its folder."""
Flat = Mapping[str, Tensor]
"""Modules laid end to end, by name."""


@dataclass(frozen=True)
class Memory:
    """What the site keeps of the last round that it trained; empty before the first."""

    round: int = 0
    private: Flat = field(default_factory=dict)
    start: Flat = field(default_factory=dict)
    """The weights that the round began with."""
    change: Flat = field(default_factory=dict)
    """The site's own change in it, without the correction that was added."""
    residual: Flat = field(default_factory=dict)
    """What rounding took away from its changes, to be added to the next ones (permmoe.federated.wire)."""

    def drift(self, number: int, before: Flat) -> Flat:
        """The drift to steer against in a round: the mean change of the round before, less the site's own.

        This is SCAFFOLD, option II, with control variates in units of a round's change (Karimireddy et al. 2020, arXiv
        1910.06378).

        Empty where the site took no part in the round before. Modules that it did not train are not steered.
        """
        if number != self.round + 1:
            return {}
        return {name: before[name] - self.start[name] - own for name, own in self.change.items()}


def is_private(module: str, plan: RoundPlan) -> bool:
    """Whether each site keeps this module to itself."""
    return any(fnmatchcase(module, pattern) for pattern in plan.federation.private_modules)


def needs_memory(plan: RoundPlan) -> bool:
    """Whether a study keeps anything at its sites."""
    federation = plan.federation
    return bool(federation.private_modules) or federation.drift_correction or federation.wire != "fp32"


def recall(site: SiteConfig, plan: RoundPlan, without: str = "") -> Memory:
    """The memory of a study. Raises ConfigurationError where the site names no folder for it.

    `without` says who had withdrawn, as the head of their commitments: what was trained before they had is forgotten.
    """
    folder = _folder(site, plan)
    if not has_checkpoint(folder):
        return Memory()
    tensors, card = load_checkpoint(folder)
    if card.get("without", "") != without:
        return Memory()
    return Memory(int(card["round"]), **split_groups(tensors))


def remember(site: SiteConfig, plan: RoundPlan, memory: Memory, without: str = "") -> None:
    """Keep the memory of a study in place of what was kept before; `without` as in `recall`."""
    groups = {
        "private": memory.private, "start": memory.start, "change": memory.change, "residual": memory.residual
    }  # fmt: skip
    folder = _folder(site, plan)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    save_checkpoint(folder, join_groups(groups), {"round": memory.round, "without": without})


def forget_studies(site: SiteConfig) -> None:
    """Remove what all studies, and a training that was interrupted, have kept at the site; and nothing else."""
    if site.state:
        for folder in (*site.state.glob(f"{'[0-9a-f]' * STUDY_DIGITS}"), site.state / "training"):
            shutil.rmtree(folder, ignore_errors=True)


def _folder(site: SiteConfig, plan: RoundPlan) -> Path:
    if site.state is None:
        raise ConfigurationError(
            f"site {site.name}: the study keeps something at its sites; name a folder for it under 'state'"
        )
    return site.state / plan.digest()[:STUDY_DIGITS]
