"""`permmoe export`: a trained model for other programs, and a card about it for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.config import require_unharmonised
from permmoe.errors import ConfigurationError
from permmoe.predict import load_model
from permmoe.runtime.checkpoint_card import read_checked


def export(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    onnx: Annotated[Path | None, typer.Option(help="New folder for model.onnx and model.json.")] = None,
    monai_bundle: Annotated[Path | None, typer.Option(help="New folder for a MONAI bundle.")] = None,
    card: Annotated[Path | None, typer.Option(help="Markdown file for a model card as Hugging Face shows it.")] = None,
) -> None:
    """Write a model as ONNX, as a MONAI bundle or as a model card; graphs are checked against our own predictions."""
    if onnx is None and monai_bundle is None and card is None:
        raise ConfigurationError("name what to write: --onnx FOLDER, --monai-bundle FOLDER or --card README.md")
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
    if card is not None:
        from permmoe.export.model_card import model_card

        if card.exists():
            raise ConfigurationError(f"{card} exists; name a new file")
        card.write_text(model_card(facts))
        typer.echo(f"model card in {card}")


def _say(difference: float, folder: Path) -> None:
    typer.echo(
        f"{folder}: predicts as this model in every combination of modalities (largest difference {difference:.1g} "
        "points on invented images)"
    )
