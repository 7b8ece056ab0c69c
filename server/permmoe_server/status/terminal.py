"""`permmoe-server status`: it asks a running coordinator for its status and shows it in a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from permmoe.plain_text import plain
from permmoe.runtime.text import duration_text
from permmoe_server.gateway.rules import gateway_reason
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.status.coordinator_status import CoordinatorStatus, StatusError, parse_status
from permmoe_server.status.findings import (
    headline,
    kept_round,
    last_validation,
    module_release,
    module_support,
    rejected_replies,
    rmse_curves,
    round_seconds,
    seconds_left,
)
from permmoe_server.status.rows import approval_text, at_work_sentence, away_text, rmse_text, unscored_sentence

TIMEOUT_SECONDS = 10.0


def fetch_status(host: str, port: int) -> CoordinatorStatus:
    """Return the status of the coordinator whose admin port this is. Raises StatusError."""
    url = httpx.URL(scheme="http", host=host, port=port, path="/status.json")
    try:
        # No proxy: the admin port is on this machine or this network.
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, trust_env=False)
    except (httpx.TransportError, httpx.InvalidURL):
        raise StatusError(
            f"no coordinator answers at {url}; is it running, and is this the admin port that server.yaml says?"
        ) from None
    if answer.status_code != 200:
        raise StatusError(
            f"{url} answered with status {answer.status_code}; ask by the name or address that server.yaml says"
        )
    return parse_status(answer.content)


def status_text(status: CoordinatorStatus, now: datetime | None = None) -> RenderableType:
    """Return what the status page says, in brief. Every text of the status is shown literally, never as markup."""
    now = now or datetime.now(UTC)
    parts: list[RenderableType] = []
    if status.is_synthetic:
        parts.append(Text("SYNTHETIC data: nothing here is evidence about patients", style="black on yellow"))
    parts.append(Text(f"{headline(status)}.", style="bold red" if status.phase == "failed" else "bold"))
    if status.detail:
        parts.append(_text(status.detail))
    named = [status.federation, *([status.study] if status.study is not None else [])]
    parts.append(Text(f"{plain(', '.join(named))}; {_pace(status)}", style="dim"))
    parts.append(_sites(status, now))
    if away := away_text(status):
        parts.append(_text(f"{away[0].upper()}{away[1:]}."))
    if evaluated := last_validation(status.records):
        parts.append(_scores(status, evaluated.round))
    elif status.records:
        parts.append(Text(unscored_sentence(status.records)))
    if support := _support(status):
        parts.append(support)
    if at_work := at_work_sentence(status.records):
        parts.append(_text(at_work))
    if rejected := rejected_replies(status.records):
        table = Table("rule", "replies", "last round", "from", "why", title="Rejected replies", title_justify="left")
        for row in rejected:
            table.add_row(
                _text(row.rule), str(row.count), str(row.last_round), _text(", ".join(row.senders)), row.reason
            )
        parts.append(table)
    if refused := {rule: count for rule, count in sorted(status.refusals.items()) if count}:
        table = Table("rule", "refused", "why", title="Turned away by the gateway", title_justify="left")
        for rule, count in refused.items():
            table.add_row(_text(rule), str(count), gateway_reason(rule))
        parts.append(table)
    return Group(*parts)


def _pace(status: CoordinatorStatus) -> str:
    pace, left = round_seconds(status.records), seconds_left(status)
    if pace is None:
        return "no round is done yet"
    return f"{duration_text(pace)} a round" + ("" if left is None else f", about {duration_text(left)} to go")


def _sites(status: CoordinatorStatus, now: datetime) -> Table:
    table = Table("site", "now", "study", "last round", "last rejection", title="Sites", title_justify="left")
    for site in status.sites:
        state = Text("online", style="green") if site.is_online else Text("offline", style="red")
        if not site.is_online:
            ago = site.last_seen and duration_text((now - site.last_seen).total_seconds())
            state.append(f", last seen {ago} ago" if ago else ", never seen")
        rule = site.last_rejection
        table.add_row(
            _text(site.name),
            state,
            approval_text(site),
            "-" if site.last_round is None else str(site.last_round),
            "-" if rule is None else _text(f"{rule}: {reply_reason(rule)}"),
        )
    return table


def _scores(status: CoordinatorStatus, number: int) -> Table:
    unit, kept = escape(plain(status.unit)), kept_round(status)
    title = f"Validation after round {number}, {unit} (the model of round {kept} is kept)"
    synthetic = "SYNTHETIC. " if status.is_synthetic else ""
    table = Table("combination", "n", "RMSE", "first", title=synthetic + title, title_justify="left")
    evaluated = last_validation(status.records)
    for name, points in rmse_curves(status.records).items():
        score = evaluated and evaluated.validation.get(name)
        table.add_row(
            _text(name), str(score.n) if score else "-", rmse_text(score) if score else "-", f"{points[0][1]:.2f}"
        )
    return table


def _support(status: CoordinatorStatus) -> Text | None:
    if release := module_release(status.records):
        released = sum(r.last for r in release.values())
        return Text(
            f"Modules that enough sites trained in round {status.rounds_done}: {released}, too few: "
            f"{len(release) - released}"
        )
    by_count: dict[int, int] = {}
    for support in module_support(status.records).values():
        by_count[support.last] = by_count.get(support.last, 0) + 1
    if not by_count:
        return None
    parts = [f"{modules} by {sites} site{'s' * (sites != 1)}" for sites, modules in sorted(by_count.items())]
    return Text(f"Modules trained in round {status.rounds_done}: {', '.join(parts)}")


def _text(text: str) -> Text:
    return Text(plain(text))
