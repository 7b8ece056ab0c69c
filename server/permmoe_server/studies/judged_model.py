"""The model that an evaluation judges: a registered one, or a folder with our card; and the study that judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permmoe.calibration.calibration import Calibration, read_calibration
from permmoe.config import ModelConfig, parse_config, read_config
from permmoe.ensemble import empty_network, members_of
from permmoe.errors import ConfigurationError, DataError
from permmoe.federated.evaluation_config import EvaluationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.observed_coverage import require_comparable
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.registry import read_registry
from permmoe_server.studies.study_folder import Study, find_study, study_of

OBEYED = (
    "min_sites", "max_failed_rounds", "round_deadline_seconds", "min_cell_count", "max_support", "secure",
    "secure_threshold", "stage_deadline_seconds", "min_holders", "min_cohort_difference", "calibrate", "privacy",
)  # fmt: skip
"""Settings of a federation that an evaluation goes by; the others concern training, and may stand in the file.

`privacy` is among them so that a file that promises it is refused: sums of errors have no noise."""


@dataclass(frozen=True)
class JudgedModel:
    """A finished model, or several as one."""

    config: ModelConfig
    members: int
    packed: PackedModel
    """Its weights as they travel."""
    card: Mapping[str, Any]


def find_evaluation(folder: FederationFolder, file: Path, model: str) -> Study:
    """The study that judges a model, with the settings of a YAML file; nothing is written.

    `model` is the name of a registered version, or a folder. The file may be that of the study that trained it: what
    concerns training plays no role. Raises ConfigurationError for a file or model that cannot be used, DataError for a
    damaged model.
    """
    given = read_config(file, RoundPlan)
    if given.survey is not None:
        raise ConfigurationError(f"{file} is a survey, which judges no model; leave 'survey' out of a copy of it")
    source, called = _source(folder, model)
    found = load_judged(source)
    config, card = found.config, found.card
    if "model" in given.model_fields_set and given.model != config:
        raise ConfigurationError(
            f"{file} describes another model than the card in {source}; leave 'model' out of it, the card says it"
        )
    trained: dict[str, Any] = card.get("plan") or {}
    asked = given.evaluation or EvaluationConfig()
    values = given.federation.model_dump()
    federation = {name: values[name] for name in OBEYED if name in values}
    if given.federation.calibrate and judged_calibration(card, config, f"the model card in {source}") is None:
        # Hospitals are asked for nothing that there is no use for.
        del federation["calibrate"]
    plan = RoundPlan.model_validate(
        {
            **{name: getattr(given, name) for name in ("name", "purpose", "is_synthetic")},
            # What the model predicts, its own study says where this file does not.
            "outcome": given.outcome or trained.get("outcome", ""),
            "horizon_months": given.horizon_months or trained.get("horizon_months"),
            "model": config,
            "federation": federation,
            "evaluation": EvaluationConfig(
                visits=asked.visits, model_sha256=found.packed.digest(), model_name=called, members=found.members
            ),
        }
    )
    study = study_of(folder, plan)
    return Study(plan, study.folder, judged_source=source)


def load_judged(folder: Path) -> JudgedModel:
    """The model of a folder. Raises ConfigurationError, DataError."""
    state, card = load_checkpoint(folder)
    if "model" not in card:
        raise DataError(f"the card in {folder} does not describe a model; name the folder of a trained model")
    source = f"the model card in {folder}"
    config, members = parse_config(card["model"], ModelConfig, source), members_of(card, source)
    model = empty_network(config, members)
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise DataError(f"the tensors in {folder} are not those of the model in its card") from None
    packed = PackedModel.of(ModuleLayout.of(model).flatten_all(model.state_dict()))
    return JudgedModel(config, members, packed, card)


def judged_calibration(card: Mapping[str, Any], config: ModelConfig, source: str) -> Calibration | None:
    """The calibration that hospitals' counts can be compared with; None where the card has none.

    Raises ConfigurationError, DataError for one that cannot be used.
    """
    found = read_calibration(card, source)
    return None if found is None else require_comparable(found, config)


def study_to_run(folder: FederationFolder, file: Path | None, model: str | None) -> Study | None:
    """The study that a command names: as `find_study` has it or, where it names a model, as `find_evaluation`.

    Raises ConfigurationError also for an evaluation that names no model.
    """
    if model is not None:
        if file is None:
            raise ConfigurationError("--evaluate needs --study: the YAML file with the study's name and settings")
        return find_evaluation(folder, file, model)
    study = find_study(folder, file)
    if study and study.plan.evaluation is not None and not study.plan.evaluation.model_sha256:
        raise ConfigurationError(f"{file} is an evaluation and names no model; add --evaluate MODEL to the command")
    return study


def _source(folder: FederationFolder, model: str) -> tuple[Path, str]:
    """Where the model lies, and what it is called: a registered name before a folder."""
    registry = read_registry(folder)
    for version in registry.versions:
        if version.name == model:
            return folder.models / model, f"{model} of study {version.study}"
    if Path(model).is_dir():
        return Path(model).resolve(), Path(model).resolve().name
    known = ", ".join(version.name for version in registry.versions) or "none yet"
    raise ConfigurationError(f"{model!r} is neither a registered model ({known}) nor the folder of one")
