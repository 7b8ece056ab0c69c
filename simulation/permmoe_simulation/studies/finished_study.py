"""What a study has when its cells are finished: everything that a table of it is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from permmoe.data.visits import Visit
from permmoe_simulation.studies.cell_files import FinishedCell
from permmoe_simulation.studies.partition import Sites
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.study import StudyConfig
from permmoe_simulation.summary import Axis, axis_scale


@dataclass(frozen=True, eq=False)
class FinishedStudy:
    """A study whose cells have run, before its tables are written."""

    config: StudyConfig
    cells: Sequence[FinishedCell]
    errors: PredictionErrors
    sites: Sites
    """The visits of each site in the first cell."""
    twins: PredictionErrors | None = None
    """The errors of the method that was trained twice, under both its names; None where no method was."""

    @property
    def visits(self) -> list[Visit]:
        """All visits of the first cell, in the order of its sites."""
        return [visit for table in self.sites.values() for visit in table]

    @property
    def axis(self) -> Axis | None:
        """The axis that the regimes lie on; None where they do not lie at two places of one at least."""
        values = {name: regime.value for name, regime in self.config.regimes.items() if regime.value is not None}
        if len(set(values.values())) < 2:
            return None
        return Axis(name=self.config.axis, values=values, scale=axis_scale(list(values.values())))
