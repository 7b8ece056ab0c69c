"""`permmoe-server models`: keep, choose and hand out the models that studies made."""

from __future__ import annotations

from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from permmoe.runtime.tables import print_whole
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies import registry
from permmoe_server.studies.evaluation_commands import evaluations, show_judged

app = typer.Typer(no_args_is_help=True, help="Keep, choose and hand out the models that studies made.")
app.command("judged")(show_judged)
console = Console(highlight=False, soft_wrap=True)

FolderArgument = Annotated[Path, typer.Argument(help="The federation's folder.")]
VersionArgument = Annotated[str, typer.Argument(help="Such as v0001.")]


@app.command("list")
def list_models(folder: FolderArgument) -> None:
    """Show every version, and which is the current one."""
    known = registry.read_registry(FederationFolder(folder))
    table = Table(
        "model", "current", "study", "round", "validation RMSE", "evaluations", "data", "tensors", "registered (UTC)"
    )
    for version in known.versions:
        rmse = "" if version.validation_mse is None else f"{sqrt(version.validation_mse):.2f}"
        table.add_row(
            version.name,
            "yes" if version.name == known.current else "withdrawn" if version.name in known.withdrawn else "",
            version.study,
            str(version.round),
            rmse,
            str(len([*evaluations(FederationFolder(folder), version.name)]) or ""),
            "SYNTHETIC" if version.is_synthetic else "",
            version.tensors_sha256[:12],
            f"{version.registered:%Y-%m-%d %H:%M}",
        )
    print_whole(table)


@app.command()
def register(folder: FolderArgument, model: Annotated[Path, typer.Argument(help="A study's folder 'model'.")]) -> None:
    """Register a study's model; the coordinator does this itself when a study has finished."""
    version = registry.register(FederationFolder(folder), model, datetime.now(UTC))
    console.print(f"registered as {version.name}; it is used once it is promoted")


@app.command()
def promote(folder: FolderArgument, version: VersionArgument) -> None:
    """Make a version the current one."""
    registry.promote(FederationFolder(folder), version, datetime.now(UTC))
    console.print(f"{version} is the current model")


@app.command()
def rollback(folder: FolderArgument) -> None:
    """Go back to the version that was current before."""
    console.print(f"{registry.rollback(FederationFolder(folder), datetime.now(UTC))} is the current model again")


@app.command()
def export(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(help="A new folder, for `permmoe predict`.")],
    version: Annotated[str | None, typer.Option(help="Instead of the current one.")] = None,
) -> None:
    """Copy a version to a folder that `permmoe predict` takes."""
    exported = registry.export(FederationFolder(folder), version, out)
    console.print(f"{exported.name} of study {exported.study} is in {out}")


@app.command()
def verify(folder: FolderArgument) -> None:
    """Check that every version's files are those that were registered."""
    if found := registry.damaged(FederationFolder(folder)):
        console.print(f"damaged: {', '.join(found)}; take these folders from a back-up")
        raise typer.Exit(1)
    console.print("every model is as it was registered")
