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
    has_baseline: bool = False
    """Whether it is one of permmoe.evaluation.baselines, which the method names."""
    is_of_a_site: bool = False
    """Whether every site has a model of its own and no other."""
    forgets: bool = False
    """Whether somebody withdraws from it, whom the method names."""
    may_withhold: bool = False
    """Whether a method can go without a modality that others of its study have."""
    uses_engine: bool = False
    """Whether an engine carries messages between a server and the sites."""

    def run(self, *arguments: Any) -> Any:
        """Run a cell."""
        return resolve_name(self.runner)(*arguments)

    def prepare(self, *arguments: Any) -> Any:
        """Prepare a cell."""
        return resolve_name(self.preparer)(*arguments)


RUNNERS_MODULE = "permmoe_simulation.studies.method_runners"
UNIMODAL_RUNNERS = "permmoe_simulation.studies.unimodal_runners"

METHOD_KINDS: dict[str, MethodKind] = {
    "federated": MethodKind(f"{RUNNERS_MODULE}:run_federated", uses_engine=True),
    "centralised": MethodKind(
        f"{RUNNERS_MODULE}:run_centralised", f"{RUNNERS_MODULE}:prepare_centralised", may_withhold=True
    ),
    "local": MethodKind(f"{RUNNERS_MODULE}:run_local", f"{RUNNERS_MODULE}:prepare_local", is_of_a_site=True),
    "unimodal": MethodKind(f"{UNIMODAL_RUNNERS}:run_unimodal"),
    "late_fusion": MethodKind(f"{UNIMODAL_RUNNERS}:run_late_fusion"),
    "federated_late_fusion": MethodKind(f"{UNIMODAL_RUNNERS}:run_federated_late_fusion", uses_engine=True),
    "forgetting": MethodKind(
        "permmoe_simulation.studies.forgetting_runner:run_forgetting", uses_engine=True, forgets=True
    ),
    "reference": MethodKind(f"{RUNNERS_MODULE}:run_reference", is_trained=False, has_baseline=True, may_withhold=True),
    "local_reference": MethodKind(
        f"{RUNNERS_MODULE}:run_local_reference", is_trained=False, has_baseline=True, is_of_a_site=True
    ),
}
"""Name in a study -> kind."""
