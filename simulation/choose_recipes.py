"""`python simulation/choose_recipes.py runs/recipe-search --out docs/recipes.md`: what a search of recipes chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.runtime.command_line import run
from permmoe_simulation.recipes_page import recipes_page
from permmoe_simulation.report.files import read_study
from permmoe_simulation.study_tables import RESULTS


def choose(
    folder: Annotated[Path, typer.Argument(help="Folder of the finished search.")] = Path("runs/recipe-search"),
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/recipes.md"),
    default: Annotated[bool, typer.Option(help="Whether the search chooses what `permmoe train` trains.")] = True,
) -> None:
    """Apply the rule of choice to a finished search and write the page with every candidate."""
    study = read_study(folder, (RESULTS,))
    command = f"python simulation/choose_recipes.py {folder} --out {out}{'' if default else ' --no-default'}"
    out.write_text(recipes_page(study.summary, study.results, command, chooses_default=default))
    print(f"{len(study.summary.methods)} recipes -> {out}")


if __name__ == "__main__":
    run(lambda: typer.run(choose))
