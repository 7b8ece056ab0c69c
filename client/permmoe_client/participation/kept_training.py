"""What a site keeps of a training that takes long, so that neither a restart nor a lost connection costs its hours.

While it trains, a point between two steps (permmoe.training.point); once it has trained, the reply, which is sent again
where the same question comes again. One folder, `training` in the site's `state`, readable by its owner alone, holds
the newest of these. Trainings that take less than `checkpoint_seconds` write nothing.

What was kept belongs to one question about the same visits, asked of the same version of the program: of anything else,
or damaged, it is removed. The next question about a training, and the test of the finished model, show that the reply
arrived. Neither seeds nor states of generators of differential privacy are in it (permmoe.training.private_trainer).
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from permmoe.data.cache import VolumeCache
from permmoe.data.data_digest import data_digest
from permmoe.errors import DataError
from permmoe.federated.accounting import Spent
from permmoe.federated.audit import LedgerHead
from permmoe.federated.instructions import Instruction
from permmoe.federated.replies import TrainReply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.provenance import versions
from permmoe.training.point import TrainingPoint
from permmoe_client.participation.running_site import RunningSite

LOG = logging.getLogger("permmoe.client")

Facts = Mapping[str, object]
"""What has to be the same for what was kept to be of use; as it is in JSON."""


@dataclass
class KeptTraining:
    """What is kept of the training that a site is asked for; to the training it is a PointKeeper."""

    folder: Path | None
    """None where the site names no `state`: nothing is kept."""
    seconds: float
    """Work of so many seconds is worth keeping."""
    question: Callable[[], Facts]
    """What is asked, about which visits. It is asked for where there is something to compare or to keep."""
    clock: Callable[[], float] = time.monotonic
    _begun: Facts = field(default_factory=dict)
    _begun_at: float | None = None
    _kept_at: float = 0.0
    _can_write: bool = True

    @classmethod
    def of(cls, site: RunningSite, instruction: Instruction) -> KeptTraining:
        """Of an instruction to train."""
        state = site.settings.state
        folder = state / "training" / "newest" if state else None
        return cls(folder, site.settings.checkpoint_seconds, cache(partial(_question, site, instruction)))

    def reply(self) -> TrainReply | None:
        """The reply to this very question, if it was trained before; with the entry under which it left, if it has."""
        found = self._found()
        return _read_reply(*found) if found and "reply" in found[1] else None

    def begin(self, begun: Facts) -> TrainingPoint | None:
        """Begin the training, or go on behind the point that is returned. `begun` is what its steps depend on besides
        the question: points of a training that differs in it are of no use."""
        self._begun, self._begun_at = begun, self.clock()
        self._kept_at = self._begun_at
        found = self._found()
        if found is None:
            return None
        tensors, card = found
        if card.get("begun") != begun:
            self._remove("was trained under other settings")
            return None
        point = TrainingPoint(**card["point"], tensors=split_groups(tensors))
        LOG.info("the training goes on behind step %d of epoch %d, where it was interrupted", point.step, point.epoch)
        return point

    def is_due(self) -> bool:
        """Whether a point should be kept now."""
        return self.folder is not None and self.clock() - self._kept_at >= self.seconds

    def keep(self, point: TrainingPoint) -> None:
        """Keep a point in place of what was kept before."""
        progress = {
            "epoch": point.epoch,
            "step": point.step,
            "loss_sum": point.loss_sum,
            "visits_at_once": point.visits_at_once,
        }
        self._write(join_groups(point.tensors), {"begun": self._begun, "point": progress})

    def finish(self, reply: TrainReply) -> None:
        """Keep the reply of a training that took long, in place of its points; `reply` names its entry, if it has one.

        A reply that was kept already stays.
        """
        if self.folder is None or self._begun_at is None:
            return
        if self.clock() - self._begun_at >= self.seconds or has_checkpoint(self.folder):
            tensors, card = _written_reply(reply)
            self._write(tensors, {"reply": card})

    def forget(self) -> None:
        """Remove what is kept."""
        if self.folder and self.folder.parent.exists():
            shutil.rmtree(self.folder.parent)

    def _found(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was kept of this question, if anything was; everything else is removed."""
        if self.folder is None or not has_checkpoint(self.folder):
            return None
        try:
            tensors, card = load_checkpoint(self.folder)
        except DataError:
            self._remove("is damaged")
            return None
        if card.get("question") != self.question():
            if "reply" in card:
                # The next question shows that it arrived.
                self.forget()
            else:
                self._remove("is of another question, of other visits or of another version")
            return None
        return tensors, card

    def _remove(self, why: str) -> None:
        LOG.warning("what was kept of an interrupted training %s; it is removed", why)
        self.forget()

    def _write(self, tensors: Mapping[str, Tensor], card: Mapping[str, object]) -> None:
        assert self.folder
        self._kept_at = self.clock()
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            save_checkpoint(self.folder, tensors, {"question": self.question(), **card})
        except OSError as error:
            # A full disk is no reason to stop a training.
            if self._can_write:
                LOG.warning("a restart would cost this training: %s", error.strerror)
            self._can_write = False


NOTHING_KEPT = KeptTraining(None, 0.0, dict)
"""Of a rehearsal, and of a site that nobody can ask again."""


def _question(site: RunningSite, instruction: Instruction) -> Facts:
    plan = instruction.plan
    visits = site.training_visits(plan, instruction.round).visits
    return {
        "site": site.settings.name,
        "study": plan.digest(),
        "round": instruction.round,
        "model_sha256": instruction.model_digest,
        "visits_sha256": data_digest(visits, plan.model.modalities, plan.model.grid, VolumeCache(site.settings.cache)),
        "versions": versions(),
    }


def _written_reply(reply: TrainReply) -> tuple[dict[str, Tensor], dict[str, object]]:
    changes = {name: update.weighted_delta for name, update in reply.updates.items()}
    card = {
        "site": reply.site,
        "round": reply.round,
        "model_digest": reply.model_digest,
        "supports": {name: update.support for name, update in reply.updates.items()},
        "figures": reply.figures.by_name(),
        "modalities": reply.modalities,
        "head": asdict(reply.head) if reply.head else None,
        "spent": [asdict(part) for part in reply.spent],
    }
    return changes, json.loads(json.dumps(card))


def _read_reply(changes: Mapping[str, Tensor], card: Mapping[str, Any]) -> TrainReply:
    kept = card["reply"]
    return TrainReply(
        kept["site"],
        kept["round"],
        kept["model_digest"],
        {name: ModuleUpdate(changes[name], support) for name, support in kept["supports"].items()},
        TrainingFigures(**kept["figures"]),
        tuple(kept["modalities"]),
        LedgerHead(**kept["head"]) if kept["head"] else None,
        tuple(Spent(**part) for part in kept["spent"]),
    )
