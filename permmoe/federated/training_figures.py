"""The figures of a site's training that leave the hospital beside its changes, each declared once.

Messages, the server's rules, the ledger, the rehearsal, the secure sum and the log of rounds follow the declaration. To
add a figure: declare it in `TrainingFigures`, compute it at the site (permmoe_client.participation.local_round), and
show it where it is wanted. Unless its declaration says more, a new figure travels in plain studies alone; it is 0 under
differential privacy until the site computes it there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal

NOT_FINITE = "not_finite"
"""The rule that a figure breaks by being NaN, infinite or too large, or negative where its range is `not_negative`."""
LARGEST_FIGURE = 2.0**31
"""No figure is further from zero: a secure sum could not hold it, and a plain one would become infinite."""


@dataclass(frozen=True)
class Figure:
    """What is declared about a figure."""

    unit: str
    absence: str
    """Why a reply without the figure is rejected, as a sentence for the coordinator."""
    range: Literal["any", "not_negative", "support"] = "any"
    """`any`: every number within LARGEST_FIGURE. `support`: above 0 and at most the study's `max_support`."""
    breach: str = ""
    """Why a reply with a figure outside `support` is rejected; the rule that it breaks has the figure's name."""
    is_in_ledger: bool = False
    """Whether the site's ledger states the figure, as the range that it lies in."""
    is_in_secure_sum: bool = False
    """Whether sites add the figure up in a secure study; no other figure leaves a site there."""
    is_logged_by_site: bool = True
    """Whether the log of rounds keeps the figure of each site."""


def _declared(figure: Figure) -> Any:
    return field(default=0.0, metadata={"figure": figure})


@dataclass(frozen=True)
class TrainingFigures:
    """The figures of one training. A site that keeps a figure to itself leaves it at 0."""

    visits: float = _declared(
        Figure(
            unit="visits",
            absence="It does not say how many visits it trained on.",
            range="support",
            breach="Its number of visits is not above 0 and within max_support.",
            is_in_ledger=True,
            is_in_secure_sum=True,
        )
    )
    """Visits that the site trained on; with noise under differential privacy."""
    loss_sum: float = _declared(
        Figure(
            unit="squared points",
            absence="It does not say its training loss.",
            is_in_secure_sum=True,
            is_logged_by_site=False,
        )
    )
    """Training loss summed over the visits of the last local epoch; in pretraining, in place of squared points, the
    share of the scans' squared cells that is left unexplained."""
    train_seconds: float = _declared(
        Figure(unit="s", absence="It does not say how long its training took.", range="not_negative")
    )
    overhead_seconds: float = _declared(
        Figure(unit="s", absence="It does not say how long its work beside training took.", range="not_negative")
    )
    """The site's time outside training: reading, checking and writing records."""

    def by_name(self) -> dict[str, float]:
        """All figures, in the order of their declaration."""
        return {name: getattr(self, name) for name in FIGURES}

    def for_ledger(self) -> dict[str, float]:
        """The figures that a ledger states."""
        return {name: getattr(self, name) for name, figure in FIGURES.items() if figure.is_in_ledger}

    def for_secure_sum(self) -> dict[str, float]:
        """The figures that sites add up in a secure study."""
        return {name: getattr(self, name) for name, figure in FIGURES.items() if figure.is_in_secure_sum}

    def for_round_log(self) -> dict[str, float]:
        """The figures that the log of rounds keeps for each site."""
        return {name: getattr(self, name) for name, figure in FIGURES.items() if figure.is_logged_by_site}

    def are_finite(self) -> bool:
        """Whether no figure is NaN or infinite."""
        return all(isfinite(value) for value in self.by_name().values())

    def broken_rule(self, max_support: float) -> str | None:
        """The first rule that a figure breaks; None where every figure is in its range."""
        # "Figures are finite, and no time is negative."
        if not self.are_finite() or any(value < 0 for value in self._of_range("not_negative").values()):
            return NOT_FINITE
        # "Figures can be added up."
        if any(abs(value) >= LARGEST_FIGURE for value in self.by_name().values()):
            return NOT_FINITE
        # "A site trained on more than 0 and at most max_support visits."
        outside = [name for name, value in self._of_range("support").items() if not 0 < value <= max_support]
        return outside[0] if outside else None

    def _of_range(self, kind: str) -> dict[str, float]:
        return {name: getattr(self, name) for name, figure in FIGURES.items() if figure.range == kind}


FIGURES: Mapping[str, Figure] = {declared.name: declared.metadata["figure"] for declared in fields(TrainingFigures)}
"""The declarations by name, in the order in which the figures travel."""


def missing_rule(name: str) -> str:
    """The rule that a reply without the figure of this name breaks."""
    return f"missing_{name}"


def figure_rules() -> dict[str, str]:
    """Rule -> why a reply that breaks it is rejected, for the rules that are about one figure."""
    absences = {missing_rule(name): figure.absence for name, figure in FIGURES.items()}
    return absences | {name: figure.breach for name, figure in FIGURES.items() if figure.breach}
