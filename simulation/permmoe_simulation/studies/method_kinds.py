"""The kinds of methods that a study compares. To add one: write how it runs a cell, and name it in METHOD_KINDS.

A declaration names its runner as text, so that a study can be read without what trains it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class MethodKind:
    """One kind of method."""

    runner: str
    """`module:function`. It takes a cell, its sites, the volume cache, a folder and a device; returns a CellOutcome."""
    preparer: str = ""
    """`module:function` of a kind whose models can be fitted beside those of other cells: the same without a folder;
    returns a PreparedCell."""
    is_trained: bool = True
    """Whether the seed of a training changes what it predicts."""
    uses_engine: bool = False
    """Whether an engine carries messages between a server and the sites."""

    def run(self, *arguments: Any) -> Any:
        """Run a cell."""
        return resolve_name(self.runner)(*arguments)

    def prepare(self, *arguments: Any) -> Any:
        """Prepare a cell."""
        return resolve_name(self.preparer)(*arguments)


RUNNERS_MODULE = "permmoe_simulation.studies.method_runners"

METHOD_KINDS: dict[str, MethodKind] = {
    "federated": MethodKind(f"{RUNNERS_MODULE}:run_federated", uses_engine=True),
    "centralised": MethodKind(f"{RUNNERS_MODULE}:run_centralised", f"{RUNNERS_MODULE}:prepare_centralised"),
    "local": MethodKind(f"{RUNNERS_MODULE}:run_local", f"{RUNNERS_MODULE}:prepare_local"),
    "unimodal": MethodKind(f"{RUNNERS_MODULE}:run_unimodal"),
    "reference": MethodKind(f"{RUNNERS_MODULE}:run_reference", is_trained=False),
}
"""Name in a study -> kind."""
