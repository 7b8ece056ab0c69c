"""The status page's tables of modules: how many sites trained each, laid out by modality and by expert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from permmoe_server.status.findings import ModuleSupport


@dataclass(frozen=True)
class GridCell:
    """A module's support; `heat` is a class from 0 (no site) to 4 (every site that was accepted)."""

    last: int
    ever: int
    heat: int


@dataclass(frozen=True)
class GridRow:
    """Modules side by side; None where there is no such module."""

    name: str
    cells: Sequence[GridCell | None]


@dataclass(frozen=True)
class Grid:
    """A table of modules."""

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[GridRow]


def module_grids(support: Mapping[str, ModuleSupport], accepted: int) -> list[Grid]:
    """Return up to three tables of modules (permmoe.federated.modules): by modality, the experts, and all others.

    `accepted` is the number of sites whose replies the last round accepted.
    """

    def cell(name: str) -> GridCell | None:
        found = support.get(name)
        return GridCell(found.last, found.ever, -(-4 * found.last // accepted) if accepted else 0) if found else None

    def grid(caption: str, corner: str, columns: Sequence[str], rows: Mapping[str, str]) -> Grid:
        """Return a table; `rows` maps the title of a row to the prefix of its modules' names."""
        return Grid(
            caption, corner, columns, [GridRow(name, [cell(at + c) for c in columns]) for name, at in rows.items()]
        )

    starts = {module[: module.rindex("/") + 1] for module in support if "/" in module}
    modalities = _in_study_order(m.split("/") for m in support if m.startswith(("encoder/", "bank/")))
    banks = sorted((at for at in starts if at.startswith("bank/")), key=lambda at: (at.count("+"), at))
    by_modality = {f"{kind}s": f"{kind}/" for kind in ("encoder", "router") if f"{kind}/" in starts}
    by_modality |= {f"missing bank, {at.split('/')[1]} observed": at for at in banks}
    experts = sorted((m.split("/")[-1] for m in support if m.startswith("expert/")), key=lambda e: (len(e), e))
    named = {at + m for at in by_modality.values() for m in modalities} | {f"expert/{e}" for e in experts}
    whole = [module for module in support if module not in named]
    grids = []
    if modalities:
        grids.append(grid("Modules by modality.", "Module", modalities, by_modality))
    if experts:
        grids.append(grid("Experts by number.", "Expert", experts, {"sites": "expert/"}))
    if whole:
        grids.append(grid("Modules that every visit trains.", "Module", whole, {"sites": ""}))
    return grids


def _in_study_order(modules: Iterable[Sequence[str]]) -> list[str]:
    """Return the modalities in the study's order, which the combinations in the names of banks show."""
    before: dict[str, set[str]] = {}
    for module in modules:
        before.setdefault(module[-1], set())
        observed = module[1].split("+") if len(module) == 3 else []
        for place, name in enumerate(observed):
            before.setdefault(name, set()).update(observed[:place])
    return sorted(before, key=lambda name: (len(before[name]), name))
