"""A study's bars are readable in a narrow terminal."""

import io

import pytest
from rich.console import Console

from permmoe_simulation.progress_bars import study_bars


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_cuts_the_last_step_and_no_number(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    with study_bars(console) as bars:
        task = bars.add_task("cells", total=150, last="")
        bars.update(task, advance=149, last="federated-permmoe+again, [structural], seed 4, and more")
        with console.capture() as seen:
            console.print(bars.get_renderable())
    (last,) = seen.get().splitlines()
    assert "cells" in last
    assert "149/150" in last
    assert last.count(":") == 4
    assert ("and more" in last) == (width == 200)
    assert ("…" in last) == (width < 200)
