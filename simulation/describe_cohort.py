"""`python simulation/describe_cohort.py --out docs/cohort.md`: synthetic cohorts beside what is published of ADNI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from permmoe.config import read_config
from permmoe.data.cohort import CohortConfig
from permmoe.runtime.command_line import run
from permmoe_simulation.cohort_figures import drawn, figures
from permmoe_simulation.cohort_page import cohort_page
from permmoe_simulation.published_cohort import published
from permmoe_simulation.studies.recipe_choice import DEVELOPMENT_SEEDS


def describe(
    config: Annotated[Path, typer.Option(help="YAML of a cohort.")] = Path("configs/cohorts/adni-like.yaml"),
    seed: Annotated[int, typer.Option(help="Of both cohorts.")] = DEVELOPMENT_SEEDS[0],
    out: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/cohort.md"),
) -> None:
    """Set the cohort of a configuration, and the default one of its size, beside published figures. Takes seconds."""
    named = read_config(config, CohortConfig).model_copy(update={"seed": seed})
    default = CohortConfig(subjects=named.subjects, seed=seed)
    found = {"the default cohort": figures(drawn(default)), config.stem: figures(drawn(named))}
    command = f"python simulation/describe_cohort.py --config {config} --seed {seed} --out {out}"
    out.write_text(cohort_page(found, published(), command))
    print(f"{named.subjects} subjects of each cohort -> {out}")


if __name__ == "__main__":
    run(lambda: typer.run(describe))
