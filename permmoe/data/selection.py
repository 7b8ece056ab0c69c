"""What a selection of visits kept, and what it lost at which step, in counts that name no subject."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from permmoe.data.quarantine import Quarantine, write_csv_atomically
from permmoe.data.target_rule import NumberSource
from permmoe.data.visits import VisitTable
from permmoe.errors import DataError


@dataclass(frozen=True)
class Choice:
    """One image that was taken where others were as near."""

    subject_id: str
    modality: str
    taken: Path
    others: tuple[Path, ...]


@dataclass(frozen=True)
class Selection:
    """Visits chosen from tables and folders of images."""

    visits: VisitTable
    quarantine: Quarantine
    steps: Mapping[str, int] = field(default_factory=dict)
    """How many subjects there were, and how many each step lost, in order; all but the first are losses."""
    notes: tuple[str, ...] = ()
    """What was read from elsewhere than where it usually stands, and what was left aside, in sentences."""
    choices: tuple[Choice, ...] = ()
    given_by: Mapping[str, Mapping[NumberSource, int]] = field(default_factory=dict)
    """By column of the tabular modalities, how many visits have it from where, as far as that is known."""

    def write_choices(self, path: Path) -> None:
        """Itemise the choices as CSV. It names patients and files: it stays at the site."""
        write_choices(path, self.choices)

    def require_visits(self) -> None:
        """Raise DataError, with what was lost at which step, where no visit is left."""
        if not len(self.visits):
            lines = [f"  {n} {what}" for what, n in self.steps.items()] + [f"  {note}" for note in self.notes]
            raise DataError(
                "no visit is left; of the subjects\n" + "\n".join(lines) + "\nmend the step that lost them",
                for_log="no visit is left; subjects " + ", ".join(f"{what} {n}" for what, n in self.steps.items()),
            )


def write_choices(path: Path, choices: Iterable[Choice]) -> None:
    """Itemise choices as CSV. It names patients and files: it stays at the site."""
    rows = [(c.subject_id, c.modality, c.taken, other) for c in choices for other in c.others]
    write_csv_atomically(path, ("subject_id", "modality", "taken", "not_taken"), rows)
