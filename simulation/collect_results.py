"""`python simulation/collect_results.py FOLDER... --out docs/results.md`: findings of finished studies as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.runtime.command_line import run
from permmoe_simulation.report.collection import collected


def collect(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished studies, such as runs/paper-table-1.")],
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/results.md"),
) -> None:
    """Write the findings of finished studies into one Markdown page; its chapters of other studies stay as they are."""
    out.write_text(collected(folders, out.read_text() if out.exists() else ""))
    print(f"{len(folders)} studies -> {out}")


if __name__ == "__main__":
    run(lambda: typer.run(collect))
