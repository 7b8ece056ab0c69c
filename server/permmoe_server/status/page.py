"""The coordinator's status page: it renders a status as HTML."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from permmoe.runtime.text import size_text
from permmoe_server.status.chart import Line, line_chart, line_style
from permmoe_server.status.coordinator_status import CoordinatorStatus
from permmoe_server.status.findings import (
    headline,
    last_validation,
    mean_rmse,
    module_release,
    module_support,
    rejected_replies,
    rmse_curves,
)
from permmoe_server.status.module_grids import counted_cells, module_grids, released_cells
from permmoe_server.status.rows import (
    at_work_sentence,
    facts,
    refusal_rows,
    release_sentence,
    round_row,
    score_rows,
    site_row,
    skipped_rounds_sentence,
    support_sentence,
    unscored_sentence,
)

SHOWN_ROUNDS = 6
STYLE = (files("permmoe_server.status") / "templates" / "status.css").read_text(encoding="utf-8")
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""The hash by which the content security policy admits this style sheet and no other, such as an injected one."""


def page(status: CoordinatorStatus, now: datetime) -> str:
    """Return the whole page. Every text of the status is escaped; only the chart and the style, made here, are not."""
    records = status.records
    is_secure = bool(records) and records[-1].is_secure
    support, release = module_support(records), module_release(records)
    accepted, done = len(records[-1].trained) if records else 0, status.rounds_done
    evaluated = last_validation(records)
    return _template().render(
        status=status,
        headline=headline(status),
        style=Markup(STYLE),
        now=f"{now:%Y-%m-%d %H:%M:%S %Z}".strip(),
        started=f"{status.started:%Y-%m-%d %H:%M}",
        facts=facts(status, now),
        sites=[site_row(site, now, status.machine) for site in status.sites],
        chart=_chart(status) if evaluated else "",
        scores=score_rows(records, evaluated) if evaluated else [],
        evaluated=evaluated.round if evaluated else 0,
        unit=status.unit,
        unscored=unscored_sentence(records),
        disk=size_text(status.machine.free_bytes) if status.machine else "",
        has_test=bool(records and records[-1].test),
        is_secure=is_secure,
        support_finding=release_sentence(release, done) if is_secure else support_sentence(support, done),
        grids=module_grids(released_cells(release) if is_secure else counted_cells(support, accepted)),
        rounds=[round_row(record) for record in reversed(records[-SHOWN_ROUNDS:])],
        skipped=skipped_rounds_sentence(records),
        at_work=at_work_sentence(records),
        has_at_work=any(record.at_work for record in records),
        rejected=rejected_replies(records),
        refusals=refusal_rows(status.refusals),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("permmoe_server.status") / "templates" / "status.html"
    return environment.from_string(template.read_text(encoding="utf-8"))


def _chart(status: CoordinatorStatus) -> Markup:
    curves = rmse_curves(status.records)
    mean = [(record.round, error) for record in status.records if (error := mean_rmse(record.validation)) is not None]
    lines = [
        Line(name, points, line_style(name), f"{points[-1][1]:.2f} · {_since(points[-1][0], mean[-1][0])}".rstrip(" ·"))
        for name, points in curves.items()
    ]
    lines.append(Line("mean", mean, "mean", f"{mean[-1][1]:.2f}"))
    return line_chart(lines, mean[0][0], mean[-1][0], f"RMSE, {status.unit}")


def _since(last: int, newest: int) -> str:
    return "" if last == newest else f"round {last}"
