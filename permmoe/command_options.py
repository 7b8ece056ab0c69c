"""Options that several commands of `permmoe` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.data.outcome_columns import OUTCOME_HELP

OutcomeOption = Annotated[Path | None, typer.Option(help=OUTCOME_HELP)]
TrustOption = Annotated[
    bool,
    typer.Option("--images-are-prepared", help="I say that images without a sidecar were prepared as the model's."),
]
