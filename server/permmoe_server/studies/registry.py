"""The federation's models: versions that never change, and which of them is the current one.

models/registry.json    versions, the current one, and every decision so far; replaced whole
models/v0001/           a checkpoint as a study left it
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from permmoe.config import Configuration
from permmoe.errors import ConfigurationError, DataError, nearest
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.checkpoint_card import has_checkpoint, read_checked
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import locked

REGISTRY_FILE = "registry.json"


class NothingTrained(DataError):
    """A study's folder without a model that a round trained."""


class ModelVersion(Configuration):
    """A registered model; its files never change."""

    name: str = Field(description="v0001, v0002 …")
    study: str
    plan_digest: str
    tensors_sha256: str
    round: int = Field(description="the round of the study whose weights these are")
    validation_mse: float | None = Field(description="averaged over combinations, squared points; none: not evaluated")
    is_synthetic: bool
    registered: datetime


class Registry(Configuration):
    """All versions, and the decisions about them."""

    versions: tuple[ModelVersion, ...] = ()
    promoted: tuple[str, ...] = Field((), description="names of versions that were made current, the last one is")
    withdrawn: Mapping[str, str] = Field(
        default_factory=dict, description="by name why a version is used no more: it has seen somebody who withdrew"
    )
    history: tuple[str, ...] = Field((), description="every decision in words, oldest first")

    @property
    def current(self) -> str | None:
        """Return the version in use."""
        return self.promoted[-1] if self.promoted else None

    def version(self, name: str) -> ModelVersion:
        """Return the version of that name. Raises ConfigurationError where there is none."""
        for version in self.versions:
            if version.name == name:
                return version
        known = [version.name for version in self.versions]
        raise ConfigurationError(f"no model {name!r}; {nearest(name, known) if known else 'none is registered yet'}")


def read_registry(folder: FederationFolder) -> Registry:
    """Return the registry; it is empty where nothing was registered. Raises ConfigurationError for a damaged file."""
    path = folder.models / REGISTRY_FILE
    try:
        return Registry.model_validate_json(path.read_text())
    except FileNotFoundError:
        return Registry()
    except ValidationError:
        raise ConfigurationError(f"{path} is damaged; take it from a back-up") from None


def register(folder: FederationFolder, model: Path, now: datetime) -> ModelVersion:
    """Copy a study's model into the registry; a model that is there already is not copied again.

    A kill leaves a folder that no version names; the next registration replaces it.
    Raises NothingTrained where no round trained it, DataError for a damaged model.
    """
    if not has_checkpoint(model):
        raise NothingTrained(f"there is none in {model}, since no round of the study has trained one")
    _, card = read_checked(model)
    if "plan" not in card:
        raise DataError(f"{model} is not the model of a federated study; name the folder 'model' of a study")
    plan = _plan_of(card)
    # The ridge is fitted in the centring round; any other model leaves it as it went in, but for its mean inputs.
    federation, number = plan.federation, card["round"]
    if federation.is_harmonising(number) or (number < federation.first_supervised and plan.model.ridge is None):
        raise NothingTrained(f"the one in {model} is of a round that learns no outcome: it sets means, or pretrains")
    with locked(folder):
        registry = read_registry(folder)
        for version in registry.versions:
            if (version.tensors_sha256, version.plan_digest) == (card["tensors_sha256"], plan.digest()):
                return version
        version = ModelVersion(
            name=f"v{len(registry.versions) + 1:04d}",
            study=plan.name,
            plan_digest=plan.digest(),
            tensors_sha256=card["tensors_sha256"],
            round=card["round"],
            validation_mse=card.get("validation_mse"),
            is_synthetic=plan.is_synthetic,
            registered=now,
        )
        target = folder.models / version.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(model, target)
        read_checked(target)
        _write(
            folder, registry, versions=(*registry.versions, version), decision=f"{now:%F %T} registered {version.name}"
        )
    return version


def withdraw(folder: FederationFolder, names: Collection[str], why: str, now: datetime) -> None:
    """Let versions be used no more; where one was current, the newest before it is that was not withdrawn. Their files
    stay, since what they predicted may have to be explained."""
    with locked(folder):
        registry = read_registry(folder)
        new = [name for name in names if name not in registry.withdrawn]
        if new:
            _write(
                folder,
                registry,
                promoted=tuple(name for name in registry.promoted if name not in new),
                withdrawn={**registry.withdrawn, **dict.fromkeys(new, why)},
                decision=f"{now:%F %T} withdrew {', '.join(new)}: {why}",
            )


def promote(folder: FederationFolder, name: str, now: datetime) -> None:
    """Make a version the current one after checking its files. Raises DataError where they were changed,
    ConfigurationError for one that was withdrawn."""
    with locked(folder):
        registry = read_registry(folder)
        _require_in_use(registry, name)
        _verify(folder, registry.version(name))
        _write(folder, registry, promoted=(*registry.promoted, name), decision=f"{now:%F %T} promoted {name}")


def rollback(folder: FederationFolder, now: datetime) -> str:
    """Make the previous current version current again and return its name; each call goes one further back."""
    with locked(folder):
        registry = read_registry(folder)
        if len(registry.promoted) < 2:
            raise ConfigurationError("no model was current before this one; promote another one instead")
        name = registry.promoted[-2]
        _verify(folder, registry.version(name))
        _write(folder, registry, promoted=registry.promoted[:-1], decision=f"{now:%F %T} rolled back to {name}")
    return name


def export(folder: FederationFolder, name: str | None, target: Path) -> ModelVersion:
    """Copy a version, or the current one where `name` is None, to a new folder that `permmoe predict` reads."""
    registry = read_registry(folder)
    chosen = name or registry.current
    if chosen is None:
        raise ConfigurationError("no model is current; promote one, or name a version")
    if target.exists():
        raise ConfigurationError(f"{target} exists; name a new folder")
    version = registry.version(chosen)
    _require_in_use(registry, chosen)
    _verify(folder, version)
    shutil.copytree(folder.models / version.name, target)
    return version


def damaged(folder: FederationFolder) -> tuple[str, ...]:
    """Return the names of versions whose files are not those that were registered."""
    found = []
    for version in read_registry(folder).versions:
        try:
            _verify(folder, version)
        except DataError:
            found.append(version.name)
    return tuple(found)


def _require_in_use(registry: Registry, name: str) -> None:
    if why := registry.withdrawn.get(name):
        raise ConfigurationError(f"{name} was withdrawn: {why}; use another model")


def _verify(folder: FederationFolder, version: ModelVersion) -> None:
    _, card = read_checked(folder.models / version.name)
    if card["tensors_sha256"] != version.tensors_sha256 or _plan_of(card).digest() != version.plan_digest:
        raise DataError(f"{folder.models / version.name} is not what was registered; take it from a back-up")


def _plan_of(card: dict[str, object]) -> RoundPlan:
    try:
        return RoundPlan.model_validate(card["plan"])
    except ValidationError:
        raise DataError("a model's card holds no plan that can be read; take the folder from a back-up") from None


def _write(folder: FederationFolder, registry: Registry, decision: str, **changes: object) -> None:
    folder.models.mkdir(exist_ok=True)
    new = registry.model_copy(update={**changes, "history": (*registry.history, decision)})
    write_file(folder.models / REGISTRY_FILE, new.model_dump_json(indent=1), mode=PUBLIC_MODE)
