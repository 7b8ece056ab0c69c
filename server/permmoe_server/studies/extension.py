"""More rounds for a study: a new study that begins where the old one ended.

The number of rounds is part of what hospitals approved, and no site answers a round beyond it. So more rounds are
another plan with another digest, which every hospital approves anew; `permmoe-client approve` shows it what changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.studies.model_register import MODELS_FILE
from permmoe_server.studies.study_folder import Study, keep_study, study_of

CARRIED = ("last", "joined", "model", "rounds.jsonl", "receipts.jsonl", "sums.jsonl")
"""What a study goes on from: weights and moments, the model so far, and what sites will hold it to."""


def extend(folder: FederationFolder, study: Study, rounds: int) -> Study:
    """Make a study with so many further rounds, from what `study` has reached, and let it be the one named last.

    The old study stays as it is. Raises ConfigurationError while a coordinator runs, for a study that has no finished
    round, and where the new study is there already.
    """
    if rounds < 1:
        raise ConfigurationError("name one further round or more")
    with running(folder):
        if not has_checkpoint(study.folder / "last"):
            raise ConfigurationError(f"{study.folder} has no finished round; run the study first")
        new = study_of(folder, _longer(study.plan, rounds), study.weights)
        if new.folder.exists():
            raise ConfigurationError(f"{new.folder} is there already; run it with --study {new.plan_file}")
        unfinished = new.folder.with_name(f".{new.folder.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name in CARRIED:
            source = study.folder / name
            if source.is_dir():
                shutil.copytree(source, unfinished / name)
            elif source.exists():
                shutil.copy2(source, unfinished / name)
        _carry_links(study, unfinished / MODELS_FILE)
        unfinished.rename(new.folder)
        keep_study(folder, new)
    return new


def _longer(plan: RoundPlan, rounds: int) -> RoundPlan:
    total = plan.federation.rounds + rounds
    return plan.model_copy(update={"federation": plan.federation.model_copy(update={"rounds": total})})


def _carry_links(study: Study, target: Path) -> None:
    """Carry over the announced models; the test of the old study's last round is none of the new one's questions."""
    source = study.folder / MODELS_FILE
    if source.exists():
        lines = [line for line in source.read_bytes().splitlines() if not _is_test(json.loads(line))]
        write_file(target, b"".join(line + b"\n" for line in lines), mode=PUBLIC_MODE)


def _is_test(link: Mapping[str, Any]) -> bool:
    return bool(link["purpose"] == "test")
