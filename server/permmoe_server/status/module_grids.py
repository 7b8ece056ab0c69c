"""The status page's tables of modules, laid out by modality and by expert: how many sites trained each or, in a secure
study, whether enough did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from permmoe_server.status.findings import ModuleRelease, ModuleSupport


@dataclass(frozen=True)
class GridCell:
    """What is said of a module; `heat` is a class from 0 (no site) to 4 (every site that was accepted)."""

    text: str
    note: str
    """What was different in earlier rounds; empty where nothing was."""
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


def counted_cells(support: Mapping[str, ModuleSupport], accepted: int) -> dict[str, GridCell]:
    """Return each module's number of sites. `accepted`: the sites whose replies the last round accepted."""
    return {
        module: GridCell(
            str(s.last) if s.last else "none",
            f"{s.ever} ever" if s.ever != s.last else "",
            -(-4 * s.last // accepted) if accepted else 0,
        )
        for module, s in support.items()
    }


def released_cells(release: Mapping[str, ModuleRelease]) -> dict[str, GridCell]:
    """Return for each module of a secure study whether enough sites trained it; how many is unknown."""
    return {
        module: GridCell(
            "enough" if r.last else "too few", "enough once" if r.ever and not r.last else "", 4 if r.last else 0
        )
        for module, r in release.items()
    }


def module_grids(cells: Mapping[str, GridCell]) -> list[Grid]:
    """Return up to three tables of modules (permmoe.federated.modules): by modality, the experts, and all others."""

    def grid(caption: str, corner: str, columns: Sequence[str], rows: Mapping[str, str]) -> Grid:
        """Return a table; `rows` maps the title of a row to the prefix of its modules' names."""
        return Grid(
            caption, corner, columns, [GridRow(name, [cells.get(at + c) for c in columns]) for name, at in rows.items()]
        )

    starts = {module[: module.rindex("/") + 1] for module in cells if "/" in module}
    modalities = _in_study_order(m.split("/") for m in cells if m.startswith(("encoder/", "bank/")))
    banks = sorted((at for at in starts if at.startswith("bank/")), key=lambda at: (at.count("+"), at))
    by_modality = {f"{kind}s": f"{kind}/" for kind in ("encoder", "router") if f"{kind}/" in starts}
    by_modality |= {f"missing bank, {at.split('/')[1]} observed": at for at in banks}
    experts = sorted((m.split("/")[-1] for m in cells if m.startswith("expert/")), key=lambda e: (len(e), e))
    named = {at + m for at in by_modality.values() for m in modalities} | {f"expert/{e}" for e in experts}
    whole = [module for module in cells if module not in named]
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
