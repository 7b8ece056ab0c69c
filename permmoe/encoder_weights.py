"""Encoders that somebody brings along: a safetensors file that a configuration names by digest and licence.

The configuration says which file it has to be, not where it lies: each machine has it in a folder of its own, beside
the configuration, in a study's folder, or where a hospital's site.yaml says (`weights`). A file is read as numbers and
never executed. It holds `encoders.<modality>.…` as a model does, and in its header under which licence and from where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from permmoe.config import EncoderWeights, ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.model import PerMMoE
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.training.pretraining import pretrained_modalities

LICENCE, SOURCE = "licence", "source"
"""Keys of the file's header."""


def require_weights_file(weights: EncoderWeights, folder: Path | None) -> Path:
    """The file that a configuration names, once it was found to be that very file. Raises ConfigurationError."""
    if folder is None:
        raise _refused(
            f"encoder.weights names {weights.file}, and no folder was given that holds it; a hospital names it as "
            "'weights' in site.yaml, elsewhere the file lies beside the configuration"
        )
    path = folder / weights.file
    if not path.is_file():
        raise _refused(
            f"there is no {path}, which encoder.weights names; put the file with SHA-256 {weights.sha256[:16]}… there",
            f"the weights file {weights.file} is not in the folder of 'weights'",
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # "The file is the one that was named": another may hold anything.
    if digest != weights.sha256:
        raise _refused(
            f"{path} has SHA-256 {digest}, and encoder.weights names {weights.sha256}; get the file that is named, or "
            "ask whoever wrote the configuration which one is meant",
            f"the weights file {weights.file} has SHA-256 {digest}, and the study names {weights.sha256}",
        )
    return path


def brought_encoders(config: ModelConfig, folder: Path | None) -> dict[str, Tensor]:
    """The parameters of the encoders of volumes, by their names in the model; none where no file is named.

    Raises ConfigurationError for a file that is absent, another one, of another licence or of other encoders; the model
    stays as it is then.
    """
    weights = config.encoder.weights
    if weights is None:
        return {}
    path = require_weights_file(weights, folder)
    try:
        with safe_open(path, "pt") as opened:
            header = dict(opened.metadata() or {})
        tensors = load(path.read_bytes())
    except SafetensorError:
        raise _refused(
            f"{path} is no safetensors file, and nothing else is read: a pickle could run any program; convert it "
            "where you trust it, and name the new file's digest",
            f"the weights file {weights.file} is no safetensors file",
        ) from None
    # "The licence is the one that was agreed to."
    if header.get(LICENCE) != weights.licence:
        stated = f"states the licence {header[LICENCE]!r}" if LICENCE in header else "states no licence"
        raise _refused(
            f"{path} {stated}, and encoder.weights names {weights.licence!r}; name the licence that the file has, once "
            "somebody has read it, or take another file",
            f"the weights file {weights.file} {stated}, and the study names {weights.licence!r}",
        )
    return _fitting(PerMMoE(config), tensors, str(path), weights.file)


def write_encoder_weights(model: PerMMoE, path: Path, *, licence: str, source: str) -> str:
    """Write a model's encoders of volumes so that others can bring them along; returns the file's SHA-256.

    Raises ConfigurationError for a file that is there already, and for a model without such encoders, or whose encoders
    read images that its federation harmonised.
    """
    if model.config.harmonisation:
        raise ConfigurationError(
            "the model's encoders read images that its federation harmonised, and no other model's images are like "
            "them; take a model without model.harmonisation"
        )
    if path.exists():
        raise ConfigurationError(f"{path} exists; name a new file")
    state = {name: model.state_dict()[name].detach().cpu().contiguous() for name in _parameters(model)}
    if not state:
        raise ConfigurationError("the model has no encoder of volumes, which alone can be brought along")
    content = save(state, metadata={LICENCE: licence, SOURCE: source})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content, mode=PUBLIC_MODE)
    return hashlib.sha256(content).hexdigest()


def _fitting(model: PerMMoE, tensors: Mapping[str, Tensor], path: str, file: str) -> dict[str, Tensor]:
    """The tensors of the model's encoders. Raises ConfigurationError that itemises what is absent or does not fit."""
    state, troubles = model.state_dict(), []
    for name in _parameters(model):
        wanted = tuple(state[name].shape)
        if name not in tensors:
            troubles.append(f"{name} is absent")
        elif tuple(tensors[name].shape) != wanted or not tensors[name].is_floating_point():
            own = json.dumps(list(tensors[name].shape))
            troubles.append(f"{name} has shape {own} ({tensors[name].dtype}), the model's {json.dumps(list(wanted))}")
        elif not bool(tensors[name].isfinite().all()):
            troubles.append(f"{name} holds a value that is not a number")
    if troubles:
        what = "\n".join(f"  {trouble}" for trouble in troubles)
        raise _refused(
            f"the encoders in {path} are not this model's:\n{what}\nset model.encoder, grid, tokens, width and the "
            "modalities' names as they were where the file was written, or name another file",
            f"the encoders in the weights file {file} are not this model's: {'; '.join(troubles)}",
        )
    return {name: tensors[name].float() for name in _parameters(model)}


def _parameters(model: PerMMoE) -> tuple[str, ...]:
    names = pretrained_modalities(model.config)
    return tuple(f"encoders.{name}.{own}" for name in names for own in model.encoders[name].state_dict())


def _refused(message: str, for_log: str = "") -> ConfigurationError:
    return ConfigurationError(message, for_log=for_log or message)
