"""Encoders that are brought along: the file that was named, of the licence that was agreed to, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from permmoe.config import EncoderConfig, EncoderWeights, ModelConfig, RunConfig, TrainConfig
from permmoe.encoder_weights import brought_encoders, write_encoder_weights
from permmoe.errors import ConfigurationError
from permmoe.export.model_card import model_card
from permmoe.model import PerMMoE
from permmoe.runs import train_run
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.training.seeds import make_model
from tests.support.command_line import command_of
from tests.support.model_batches import small_config
from tests.support.scanned_patients import MODEL as SCANNED
from tests.support.scanned_patients import write_patients

CONFIG = small_config(n_volumes=2, n_tables=1)
LICENCE = "CC-BY-4.0"


def named(config: ModelConfig, path: Path, licence: str = LICENCE) -> ModelConfig:
    """The configuration that names a file as it is."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = EncoderWeights(file=path.name, sha256=digest, licence=licence, source="invented patients")
    return config.model_copy(update={"encoder": config.encoder.model_copy(update={"weights": weights})})


def written(folder: Path, config: ModelConfig = CONFIG, seed: int = 7) -> tuple[Path, PerMMoE]:
    """A file of a model's encoders, whose means of inputs are not those of a fresh model."""
    model = make_model(config, seed)
    with torch.no_grad():
        for encoder in model.encoders.values():
            if hasattr(encoder.features, "centre"):
                encoder.features.centre.fill_(0.25)
    path = folder / "encoders.safetensors"
    write_encoder_weights(model, path, licence=LICENCE, source="invented patients")
    return path, model


def test_a_model_starts_from_the_encoders_that_were_brought_and_is_else_the_fresh_one(tmp_path: Path) -> None:
    path, brought = written(tmp_path)
    config = named(CONFIG, path)
    model, fresh = make_model(config, 1, brought_encoders(config, tmp_path)), make_model(CONFIG, 1)
    for name, value in model.state_dict().items():
        source = brought if name.startswith("encoders.volume") else fresh
        assert torch.equal(value, source.state_dict()[name]), name


def changed(change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], header: dict[str, str]) -> Callable[..., None]:
    def apply(path: Path) -> None:
        save_file(dict(change(load_file(path))), path, metadata=header)

    return apply


def without(name: str) -> Callable[[dict[str, Tensor]], Mapping[str, Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


WEIGHT, BIAS = "encoders.volume1.project.weight", "encoders.volume0.project.bias"
STATED = {"licence": LICENCE}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(without(WEIGHT), STATED), f"{WEIGHT} is absent"),
        (changed(lambda t: {**t, WEIGHT: t[WEIGHT].T.contiguous()}, STATED), "shape \\[30, 35\\].*\\[35, 30\\]"),
        (changed(lambda t: {**t, BIAS: t[BIAS].to(torch.int32)}, STATED), "torch.int32"),
        (changed(lambda t: {**t, BIAS: t[BIAS] * float("nan")}, STATED), f"{BIAS} holds a value"),
        (changed(dict, {"licence": "GPL-3.0-only"}), "states the licence 'GPL-3.0-only'"),
        (changed(dict, {}), "states no licence"),
        (lambda path: path.write_bytes(b"\x80\x04no tensors"), "no safetensors file"),
    ],
)  # fmt: skip
def test_a_file_of_other_encoders_or_another_licence_is_refused_and_says_what_and_where(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path, _ = written(tmp_path)
    spoil(path)
    config = named(CONFIG, path)
    with pytest.raises(ConfigurationError, match=message) as refused:
        brought_encoders(config, tmp_path)
    assert str(path) in str(refused.value)
    # The site's own log names no folder.
    assert refused.value.for_log and str(tmp_path) not in refused.value.for_log


def test_all_that_does_not_fit_is_itemised_at_once(tmp_path: Path) -> None:
    path, _ = written(tmp_path, small_config(n_volumes=1))
    with pytest.raises(ConfigurationError) as refused:
        brought_encoders(named(CONFIG, path), tmp_path)
    assert str(refused.value).count("is absent") == 3


def test_another_file_under_the_name_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    config = named(CONFIG, path)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ConfigurationError, match="has SHA-256"):
        brought_encoders(config, tmp_path)
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"there is no .*encoders\.safetensors"):
        brought_encoders(config, tmp_path)
    with pytest.raises(ConfigurationError, match="no folder was given"):
        brought_encoders(config, None)


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden", ""])
def test_attack_a_name_that_leads_out_of_the_folder_is_no_name_of_a_file(file: str) -> None:
    with pytest.raises(ValueError, match="file"):
        EncoderWeights(file=file, sha256="0" * 64, licence=LICENCE)


def test_a_model_that_names_a_file_is_not_made_without_it() -> None:
    weights = EncoderWeights(file="a.safetensors", sha256="0" * 64, licence=LICENCE)
    config = small_config(encoder=EncoderConfig(cells=(2, 3, 5), weights=weights))
    with pytest.raises(ConfigurationError, match="leave it out"):
        make_model(config, 0)
    assert "weights" not in EncoderConfig().model_dump()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_begins_with_what_was_brought_and_its_card_says_where_it_is_from(
    tmp_path: Path, frozen: bool
) -> None:
    path, brought = written(tmp_path, SCANNED)
    train = TrainConfig(epochs=2, batch_size=8, frozen_encoders=frozen)
    config = RunConfig(model=named(SCANNED, path), train=train)
    manifest = write_patients(tmp_path, "north")
    train_run(manifest, tmp_path / "out", config, cache=tmp_path / "cache", weights=tmp_path)
    state, card = load_checkpoint(tmp_path / "out" / "model")
    for name in ("t1", "tau"):
        weight, centre = f"encoders.{name}.project.weight", f"encoders.{name}.features.centre"
        assert torch.equal(state[weight], brought.state_dict()[weight]) == frozen
        # The means of inputs belong to the encoders, and came with them.
        assert torch.equal(state[centre], brought.state_dict()[centre])
    text = model_card(card)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert LICENCE in text and "invented patients" in text


def test_encoders_of_a_trained_model_are_exported_for_others_with_the_lines_that_name_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    permmoe = command_of(capsys)
    manifest = write_patients(tmp_path, "north")
    config = RunConfig(model=SCANNED, train=TrainConfig(epochs=1, batch_size=8))
    train_run(manifest, tmp_path / "out", config, cache=tmp_path / "cache")
    model, path = str(tmp_path / "out" / "model"), tmp_path / "shared" / "encoders.safetensors"
    status, _, said = permmoe("export", model, "--encoders", path)
    assert status == 2 and "--licence" in said and not path.exists()
    status, told, _ = permmoe(
        "export", model, "--encoders", path, "--licence", LICENCE, "--source", "invented patients"
    )
    assert status == 0
    lines = yaml.safe_load(told.split("names them as")[1])
    named_there = ModelConfig.model_validate(
        {**SCANNED.model_dump(), "encoder": {**SCANNED.encoder.model_dump(), **lines["model"]["encoder"]}}
    )
    found = brought_encoders(named_there, path.parent)
    state, _ = load_checkpoint(tmp_path / "out" / "model")
    assert found and all(torch.equal(value, state[name]) for name, value in found.items())
    status, _, said = permmoe("export", model, "--encoders", path, "--licence", LICENCE)
    assert status == 2 and "exists" in said
