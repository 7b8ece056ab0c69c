"""Since when a study's model has seen which site: from the record of rounds, and the checkpoints before newcomers.

joined/0007/   the study's checkpoint before round 7, in which a site took part for the first time; the first round
               needs none, since its model follows from the plan
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Set
from pathlib import Path

from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe_server.studies.round_log import RoundSummary
from permmoe_server.studies.study_state import FOLDER

JOINED = "joined"


def first_rounds(records: Iterable[RoundSummary]) -> dict[str, int]:
    """By site the first round that changed the model and that it took part in."""
    found: dict[str, int] = {}
    for record in records:
        if record.is_aggregated:
            for site in record.trained:
                found[site] = min(record.round, found.get(site, record.round))
    return found


def checkpoint_before(out: Path, number: int) -> Path:
    """Where a study in this folder keeps the checkpoint from before a round, if it keeps it."""
    return out / JOINED / f"{number:04d}"


def keep_before_newcomers(out: Path, number: int, took_part: Set[str], seen: Set[str]) -> None:
    """Keep the newest checkpoint, which is the one before this round, where a site took part in it that had not before.

    It has to be called before the round's own checkpoint is written. After a kill it is called for the round again, and
    keeps the same.
    """
    if number == 1 or took_part <= seen or not has_checkpoint(out / FOLDER):
        return
    target = checkpoint_before(out, number)
    unfinished = target.with_name(f".{target.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(out / FOLDER, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
