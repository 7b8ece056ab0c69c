"""The coordinator's status page: a status in, HTML out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from permmoe.runtime.text import duration_text, size_text
from permmoe_server.gateway.rules import gateway_reason
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.status.chart import Line, line_chart, line_style
from permmoe_server.status.snapshot import (
    CoordinatorStatus,
    ModuleSupport,
    SiteStatus,
    headline,
    kept_round,
    last_validation,
    mean_rmse,
    module_support,
    rejected_replies,
    rmse_curves,
    round_seconds,
    seconds_left,
)
from permmoe_server.studies.round_log import RoundSummary

SHOWN_ROUNDS = 6
NAMED_MODULES = 6
"""Modules that a sentence names before it counts the rest."""
NOTHING = "–"
STYLE = (files("permmoe_server.status") / "templates" / "status.css").read_text(encoding="utf-8")
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""What the content security policy names the style sheet by: no other style applies, injected or not."""


@dataclass(frozen=True)
class Fact:
    """A figure under the headline."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class SiteRow:
    """A site as the page shows it."""

    name: str
    is_online: bool
    seen: str
    last_round: int | None
    rejection: str | None
    reason: str


@dataclass(frozen=True)
class ScoreRow:
    """A combination's errors, written out."""

    name: str
    n: str
    rmse: str
    first: str
    best: str
    test: str


@dataclass(frozen=True)
class RoundRow:
    """A round, written out."""

    round: int
    accepted: int
    rejected: int
    is_aggregated: bool
    seconds: str
    loss: str
    rmse: str


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
    """Modules as a table."""

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[GridRow]


@dataclass(frozen=True)
class RefusalRow:
    """A rule of the gateway that turned something away."""

    rule: str
    reason: str
    count: int


def page(status: CoordinatorStatus, now: datetime) -> str:
    """The whole page. Every text of the status is escaped; only the chart and the style, made here, are not."""
    records = status.records
    support = module_support(records)
    evaluated = last_validation(records)
    return _template().render(
        status=status,
        headline=headline(status),
        style=Markup(STYLE),
        now=f"{now:%Y-%m-%d %H:%M:%S %Z}".strip(),
        started=f"{status.started:%Y-%m-%d %H:%M}",
        facts=_facts(status, now),
        sites=[_site_row(site, now) for site in status.sites],
        chart=_chart(status) if evaluated else "",
        scores=_score_rows(records, evaluated) if evaluated else [],
        evaluated=evaluated.round if evaluated else 0,
        has_test=bool(records and records[-1].test),
        support_finding=_support_finding(support, status.rounds_done),
        grids=_grids(support, len(records[-1].trained) if records else 0),
        rounds=[_round_row(record) for record in reversed(records[-SHOWN_ROUNDS:])],
        skipped=_skipped(records),
        rejected=rejected_replies(records),
        refusals=[
            RefusalRow(rule, gateway_reason(rule), count)
            for rule, count in sorted(status.refusals.items(), key=lambda item: (-item[1], item[0]))
            if count
        ],
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("permmoe_server.status") / "templates" / "status.html"
    return environment.from_string(template.read_text(encoding="utf-8"))


def _facts(status: CoordinatorStatus, now: datetime) -> list[Fact]:
    pace, left, kept = round_seconds(status.records), seconds_left(status), kept_round(status)
    by_round = {record.round: record for record in status.records}
    kept_rmse = mean_rmse(by_round[kept].validation) if kept is not None else None
    down, up = (sum(getattr(record, name) for record in status.records) for name in ("bytes_down", "bytes_up"))
    return [
        Fact("Phase", status.phase, f"up for {duration_text((now - status.started).total_seconds())}"),
        Fact("Rounds done", f"{status.rounds_done} of {status.rounds_total}"),
        Fact("Sites online", f"{status.sites_online} of {len(status.sites)}"),
        Fact(
            "Time a round",
            NOTHING if pace is None else duration_text(pace),
            "" if left is None else f"about {duration_text(left)} to go",
        ),
        Fact(
            "Mean RMSE",
            NOTHING if kept_rmse is None else f"{kept_rmse:.2f}",
            "" if kept is None else f"round {kept}, the model that is kept",
        ),
        Fact("Sent to sites", size_text(down), f"{size_text(up)} received"),
    ]


def _site_row(site: SiteStatus, now: datetime) -> SiteRow:
    if site.is_online:
        seen = ""
    elif site.last_seen is None:
        seen = "never seen"
    else:
        seen = f"last seen {duration_text((now - site.last_seen).total_seconds())} ago"
    reason = "" if site.last_rejection is None else reply_reason(site.last_rejection)
    return SiteRow(site.name, site.is_online, seen, site.last_round, site.last_rejection, reason)


def _chart(status: CoordinatorStatus) -> Markup:
    curves = rmse_curves(status.records)
    mean = [(record.round, error) for record in status.records if (error := mean_rmse(record.validation)) is not None]
    lines = [
        Line(name, points, line_style(name), f"{points[-1][1]:.2f} · {_since(points[-1][0], mean[-1][0])}".rstrip(" ·"))
        for name, points in curves.items()
    ]
    lines.append(Line("mean", mean, "mean", f"{mean[-1][1]:.2f}"))
    return line_chart(lines, mean[0][0], mean[-1][0], "RMSE, points of CDR-SB")


def _since(last: int, newest: int) -> str:
    return "" if last == newest else f"round {last}"


def _score_rows(records: Sequence[RoundSummary], evaluated: RoundSummary) -> list[ScoreRow]:
    test = records[-1].test
    rows = []
    for name, points in rmse_curves(records).items():
        best, best_at = min((value, number) for number, value in points)
        score, judged = evaluated.validation.get(name), test.get(name)
        rows.append(
            ScoreRow(
                name,
                str(score.n) if score else NOTHING,
                f"{score.rmse:.2f}" if score else NOTHING,
                f"{points[0][1]:.2f}",
                f"{best:.2f} ({best_at})",
                f"{judged.rmse:.2f} ({judged.n})" if judged else NOTHING,
            )
        )
    return rows


def _round_row(record: RoundSummary) -> RoundRow:
    error = mean_rmse(record.validation)
    return RoundRow(
        record.round,
        len(record.trained),
        len(record.rejections),
        record.is_aggregated,
        f"{record.seconds:.1f}",
        NOTHING if record.train_loss is None else f"{record.train_loss:.2f}",
        NOTHING if error is None else f"{error:.2f}",
    )


def _skipped(records: Sequence[RoundSummary]) -> str:
    skipped = [str(record.round) for record in records if not record.is_aggregated]
    if not skipped:
        return "Every round so far had enough replies to update the model."
    return f"Too few replies to update the model: {_listing('round', skipped)}."


def _support_finding(support: Mapping[str, ModuleSupport], number: int) -> str:
    untrained = [module for module, s in support.items() if not s.last]
    alone = [module for module, s in support.items() if s.last == 1]
    sentences = []
    if alone:
        sentences.append(f"In round {number} a single site trained {_listing('module', alone)}.")
    if untrained:
        sentences.append(
            f"In round {number} no site trained {_listing('module', untrained)}, which earlier rounds did."
        )
    if not sentences and support:
        fewest = min(s.last for s in support.values())
        sentences.append(f"Each of {len(support)} modules was trained by {fewest} or more sites in round {number}.")
    return " ".join(sentences) or "No module has been trained yet."


def _listing(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_MODULES])
    rest = f" and {len(names) - NAMED_MODULES} more" if len(names) > NAMED_MODULES else ""
    return f"{noun if len(names) == 1 else noun + 's'} {shown}{rest}"


def _grids(support: Mapping[str, ModuleSupport], accepted: int) -> list[Grid]:
    """Modules (permmoe.federated.modules) as up to three tables: by modality, experts, and parts that are whole."""

    def cell(name: str) -> GridCell | None:
        found = support.get(name)
        return GridCell(found.last, found.ever, -(-4 * found.last // accepted) if accepted else 0) if found else None

    def grid(caption: str, corner: str, columns: Sequence[str], rows: Mapping[str, str]) -> Grid:
        """`rows`: what a row is called -> the start of its modules' names."""
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
    """Modalities as the study orders them, which shows in the combinations that banks are named by."""
    before: dict[str, set[str]] = {}
    for module in modules:
        before.setdefault(module[-1], set())
        observed = module[1].split("+") if len(module) == 3 else []
        for place, name in enumerate(observed):
            before.setdefault(name, set()).update(observed[:place])
    return sorted(before, key=lambda name: (len(before[name]), name))
