"""A scaling curve: one measurement at several values of one of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.timing import Figures

ScaleName = Literal["tiny", "quick", "full"]
"""`tiny` only shows that everything runs."""


@dataclass(frozen=True)
class Curve:
    """Points of one kind along one argument."""

    name: str
    kind: str
    """What a point measures; the name by which pages know its figures."""
    function: Callable[..., Figures]
    axis: str
    """The argument that grows."""
    at: Mapping[ScaleName, Sequence[int]]
    """The values of that argument."""
    fixed: Mapping[ScaleName, Mapping[str, Any]]
    """The other arguments."""
    turns: Mapping[ScaleName, int] = field(default_factory=lambda: {"tiny": 1, "quick": 1, "full": 3})
    """How often each point is measured."""

    def point(self, scale: ScaleName, x: int) -> Measurement:
        """The measurement at `x`. Its process is fresh, since points measure memory too."""
        return Measurement(self.function, {**self.fixed[scale], self.axis: x}, is_fresh=True)

    def settings(self, scale: ScaleName) -> dict[str, Any]:
        """All that the curve's figures depend on, besides versions and machine."""
        return {
            "kind": self.kind, "axis": self.axis, "at": list(self.at[scale]), "fixed": dict(self.fixed[scale]),
            "turns": self.turns[scale],
        }  # fmt: skip


def at_every_scale(**arguments: Any) -> Mapping[ScaleName, Mapping[str, Any]]:
    """The same arguments, whatever the scale."""
    return {"tiny": arguments, "quick": arguments, "full": arguments}
