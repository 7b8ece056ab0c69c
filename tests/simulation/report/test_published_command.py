"""Published commands repeat a result anywhere: what changes it stays, the places of one machine go."""

from __future__ import annotations

import inspect

import pytest

from permmoe_simulation.cli import simulate
from permmoe_simulation.power.cli import measure
from permmoe_simulation.report.published_command import NOT_OF_THE_RESULT, published_command

RUN = "python simulation/run.py"


@pytest.mark.parametrize(
    ("given", "published"),
    [
        (RUN, RUN),
        (f"{RUN} a.yaml --out /scratch/a --shared '/scratch/of all'", f"{RUN} a.yaml"),
        (f"{RUN} --out=/scratch/a --workers=1 a.yaml --track mlflow:/scratch/runs", f"{RUN} a.yaml"),
        (f"{RUN} a.yaml --workers 1 --profile full --seeds 0,1", f"{RUN} a.yaml --profile full --seeds 0,1"),
        (f"{RUN} a.yaml --only 'permmoe/*/0' --side-by-side", f"{RUN} a.yaml --only 'permmoe/*/0' --side-by-side"),
        (f"{RUN} a.yaml --device cuda --engine ray", f"{RUN} a.yaml --device cuda --engine ray"),
        (f"{RUN} --out /scratch/a 'the study.yaml'", f"{RUN} 'the study.yaml'"),
        ("python simulation/power.py --out /scratch --page a.md", "python simulation/power.py --page a.md"),
    ],
)
def test_a_published_command_has_what_changes_the_result_and_nothing_else(given: str, published: str) -> None:
    assert published_command(given) == published
    assert published_command(published) == published


def test_what_is_left_out_are_options_with_a_value() -> None:
    """The word behind a flag would be lost."""
    parameters = {**inspect.signature(measure).parameters, **inspect.signature(simulate).parameters}
    for option in NOT_OF_THE_RESULT:
        assert parameters[option.removeprefix("--")].default not in (True, False)
