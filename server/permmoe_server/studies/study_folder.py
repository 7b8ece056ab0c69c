"""The study that a coordinator runs: its YAML file, and its folder, from which a run that ended goes on.

studies/current                    the name of the folder of the study that was named last
studies/NAME-DIGEST/plan.json      the plan, in the form whose digest hospitals approve
                   /standing.json        what the study's process says of itself (permmoe_server.studies.standing)
                   /stopped              is there while the study is stopped (`permmoe-server study stop`)
                   /judged/              the model that an evaluation judges
                   /…                    what permmoe_server.studies.study_run writes
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from permmoe.config import read_config
from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan, read_plan
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.federation_folder import FederationFolder

CURRENT_FILE = "current"


@dataclass(frozen=True)
class Study:
    """A study's plan and the paths in its folder."""

    plan: RoundPlan
    folder: Path
    judged_source: Path | None = None
    """Where the model that an evaluation judges is copied from, before its folder is made."""
    weights_source: Path | None = field(default=None, compare=False)
    """The folder that holds the weights file which the plan names, before it is copied into the study's: wherever it
    comes from, the file is the one that the plan names."""

    @property
    def plan_file(self) -> Path:
        return self.folder / "plan.json"

    @property
    def standing_file(self) -> Path:
        return self.folder / "standing.json"

    @property
    def stop_file(self) -> Path:
        return self.folder / "stopped"

    @property
    def rounds(self) -> Path:
        """The records of all tries at rounds, one a line."""
        return self.folder / "rounds.jsonl"

    @property
    def model(self) -> Path:
        """The best model so far."""
        return self.folder / "model"

    @property
    def weights(self) -> Path:
        """The folder of the weights file that the plan names, if it names one."""
        return self.folder / "weights"

    @property
    def judged(self) -> Path:
        """The model that an evaluation judges."""
        return self.folder / "judged"


def find_study(folder: FederationFolder, file: Path | None) -> Study | None:
    """Return the study of a YAML file; without a file the study that was named last, if any. Nothing is written. A
    weights file that the study names lies beside its YAML file.

    Raises ConfigurationError for a file that cannot be used.
    """
    return current_study(folder) if file is None else study_of(folder, read_config(file, RoundPlan), file.parent)


def study_of(folder: FederationFolder, plan: RoundPlan, weights_source: Path | None = None) -> Study:
    """Return the study of a plan, whether or not its folder is there."""
    # The digest in the folder's name: a study that was changed is another study, and begins at its first round.
    slug = re.sub(r"[^a-z0-9]+", "-", plan.name.lower()).strip("-")[:40]
    return Study(plan, folder.studies / f"{slug}-{plan.digest()[:12]}", weights_source=weights_source)


def keep_study(folder: FederationFolder, study: Study) -> None:
    """Make the study's folder, and let it be the one that was named last.

    Raises ConfigurationError where the weights file that its plan names is absent or another one.
    """
    _keep_weights(study)
    study.folder.mkdir(parents=True, exist_ok=True)
    write_file(study.plan_file, study.plan.canonical_json(), mode=PUBLIC_MODE)
    write_file(folder.studies / CURRENT_FILE, study.folder.name, mode=PUBLIC_MODE)


def _keep_weights(study: Study) -> None:
    """Copy the weights file that the plan names into the study's folder, whole or not at all."""
    if (weights := study.plan.model.encoder.weights) is None or (study.weights / weights.file).exists():
        return
    # It needs PyTorch, which takes seconds to import; studies without such a file do not.
    from permmoe.encoder_weights import brought_encoders, require_weights_file

    brought_encoders(study.plan.model, study.weights_source)
    content = require_weights_file(weights, study.weights_source).read_bytes()
    study.weights.mkdir(parents=True, exist_ok=True)
    write_file(study.weights / weights.file, content, mode=PUBLIC_MODE)


def known_studies(folder: FederationFolder) -> tuple[Study, ...]:
    """Return the studies that were ever run, by the names of their folders; a folder without a plan is none."""
    return tuple(Study(read_plan(file), file.parent) for file in sorted(folder.studies.glob("[!.]*/plan.json")))


def current_study(folder: FederationFolder) -> Study | None:
    """Return the study that was named last, if any. Raises ConfigurationError where its plan is missing."""
    try:
        name = (folder.studies / CURRENT_FILE).read_text()
    except FileNotFoundError:
        return None
    plan_file = folder.studies / name / "plan.json"
    if not plan_file.is_file():
        raise ConfigurationError(
            f"{plan_file} is missing, though it belongs to the last study; name a study with --study"
        )
    return Study(read_plan(plan_file), plan_file.parent)


def keep_judged(study: Study) -> None:
    """Copy the model that is judged into the study's folder, whole or not at all."""
    if study.judged_source is None or study.judged.exists():
        return
    study.folder.mkdir(parents=True, exist_ok=True)
    unfinished = study.judged.with_name(f".{study.judged.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(study.judged_source, unfinished)
    unfinished.rename(study.judged)
