"""`permmoe export`: a trained model for other programs, and a card about it for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from permmoe.config import EncoderWeights, require_unharmonised
from permmoe.ensemble import Ensemble, Network
from permmoe.errors import ConfigurationError
from permmoe.predict import load_model
from permmoe.runtime.checkpoint_card import read_checked


def export(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    onnx: Annotated[Path | None, typer.Option(help="New folder for model.onnx and model.json.")] = None,
    monai_bundle: Annotated[Path | None, typer.Option(help="New folder for a MONAI bundle.")] = None,
    encoders: Annotated[
        Path | None, typer.Option(help="New safetensors file of the encoders of images, for others to bring along.")
    ] = None,
    licence: Annotated[str, typer.Option(help="With --encoders: under which licence, such as CC-BY-4.0.")] = "",
    source: Annotated[str, typer.Option(help="With --encoders: who trained them on what.")] = "",
    card: Annotated[Path | None, typer.Option(help="Markdown file for a model card as Hugging Face shows it.")] = None,
) -> None:
    """Write a model as ONNX or a MONAI bundle, both checked against our own predictions, its encoders, or its card."""
    if onnx is None and monai_bundle is None and card is None and encoders is None:
        raise ConfigurationError(
            "name what to write: --onnx FOLDER, --monai-bundle FOLDER, --encoders FILE or --card README.md"
        )
    if encoders is not None and not licence:
        raise ConfigurationError("--encoders is for others to use: say under which licence, with --licence")
    trained = load_model(model)
    if onnx is not None or monai_bundle is not None:
        require_unharmonised(trained.config, "--onnx or --monai-bundle")
    _, facts = read_checked(model)
    if onnx is not None:
        from permmoe.export.onnx_file import export_onnx

        _say(export_onnx(trained, onnx), onnx)
    if monai_bundle is not None:
        from permmoe.export.monai_bundle import export_bundle

        _say(export_bundle(trained, facts, monai_bundle), monai_bundle)
    if encoders is not None:
        _export_encoders(trained.network, encoders, licence, source)
    if card is not None:
        from permmoe.export.model_card import model_card

        if card.exists():
            raise ConfigurationError(f"{card} exists; name a new file")
        card.write_text(model_card(facts))
        typer.echo(f"model card in {card}")


def _export_encoders(network: Network, path: Path, licence: str, source: str) -> None:
    from permmoe.encoder_weights import write_encoder_weights

    if isinstance(network, Ensemble):
        raise ConfigurationError("an ensemble has encoders of its own in each member; export those of a single model")
    digest = write_encoder_weights(network, path, licence=licence, source=source)
    weights = EncoderWeights(file=path.name, sha256=digest, licence=licence, source=source)
    typer.echo(f"encoders in {path}; a configuration names them as\n")
    typer.echo(yaml.safe_dump({"model": {"encoder": {"weights": weights.model_dump()}}}, sort_keys=False))


def _say(difference: float, folder: Path) -> None:
    typer.echo(
        f"{folder}: predicts as this model in every combination of modalities (largest difference {difference:.1g} "
        "points on invented images)"
    )
