"""`python simulation/collect_results.py FOLDER... --out docs/results.md`: findings of finished studies as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.errors import DataError
from permmoe.runtime.command_line import run
from permmoe_simulation.report import looks
from permmoe_simulation.report.collection import collected


def collect(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished studies, such as runs/paper-table-1.")],
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/results.md"),
) -> None:
    """Write the findings of finished studies into one Markdown page; its chapters of other studies stay as they are.

    Each look at a cohort is a row of `looks.csv` beside the page.
    """
    log, page = out.with_name(looks.FILE_NAME), out.read_text() if out.exists() else ""
    if page and not log.exists():
        raise DataError(f"{out} is there, but the log of looks, {log}, is not; restore it with git")
    before = looks.read_looks(log.read_text() if log.exists() else "", str(log))
    after = collected(folders, page, before, out.name)
    log.write_text(looks.write_looks(after.looks))
    out.write_text(after.page)
    print(f"{len(folders)} studies -> {out}; {len(after.looks) - len(before)} new looks at cohorts -> {log}")


if __name__ == "__main__":
    run(lambda: typer.run(collect))
