"""The rows of the status page: every value written out as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from permmoe.runtime.text import duration_text, size_text
from permmoe_server.gateway.rules import gateway_reason
from permmoe_server.protocol.rules import reply_reason
from permmoe_server.status.coordinator_status import CoordinatorStatus, Machine, SiteStatus
from permmoe_server.status.findings import (
    ModuleRelease,
    ModuleSupport,
    at_work_since,
    kept_round,
    mean_rmse,
    rmse_curves,
    round_seconds,
    seconds_left,
)
from permmoe_server.studies.round_log import RoundSummary, Score

NAMED_MODULES = 6
"""The number of modules that a sentence names before it counts the rest."""
NOTHING = "–"


@dataclass(frozen=True)
class Fact:
    """A figure under the headline."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class SiteRow:
    """A site of the roster."""

    name: str
    is_online: bool
    seen: str
    last_round: int | None
    approval: str
    version: str
    """Of the site's software, where it is not the coordinator's; else empty."""
    rejection: str | None
    reason: str


@dataclass(frozen=True)
class ScoreRow:
    """The errors of a combination of modalities."""

    name: str
    n: str
    rmse: str
    first: str
    best: str
    test: str


@dataclass(frozen=True)
class RoundRow:
    """A round of the study."""

    round: int
    accepted: int
    at_work: int
    rejected: int
    is_aggregated: bool
    seconds: str
    loss: str
    rmse: str


@dataclass(frozen=True)
class RefusalRow:
    """A rule of the gateway that turned something away."""

    rule: str
    reason: str
    count: int


def facts(status: CoordinatorStatus, now: datetime) -> list[Fact]:
    """Return the figures under the headline, in the page's order."""
    pace, left, kept = round_seconds(status.records), seconds_left(status), kept_round(status)
    by_round = {record.round: record for record in status.records}
    kept_rmse = mean_rmse(by_round[kept].validation) if kept is not None else None
    down, up = (sum(getattr(record, name) for record in status.records) for name in ("bytes_down", "bytes_up"))
    return [
        Fact("Phase", status.phase, f"up for {duration_text((now - status.started).total_seconds())}"),
        Fact(
            "Rounds done",
            f"{status.rounds_done} of {status.rounds_total}",
            f"{status.rounds_lost} lost to failed tries" if status.rounds_lost else "",
        ),
        Fact("Sites online", f"{status.sites_online} of {len(status.sites)}", away_text(status)),
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


def away_text(status: CoordinatorStatus) -> str:
    """Name the regions that do not answer; an empty text where all do."""
    away = status.regions_away
    return f"no answer from region {', '.join(away)}" if away else ""


def site_row(site: SiteStatus, now: datetime, machine: Machine | None) -> SiteRow:
    """Return a site's row; `now` is when the page is made."""
    if site.is_online:
        seen = ""
    elif site.last_seen is None:
        seen = "never seen"
    else:
        seen = f"last seen {duration_text((now - site.last_seen).total_seconds())} ago"
    reason = "" if site.last_rejection is None else reply_reason(site.last_rejection)
    approval, version = approval_text(site), version_text(site, machine)
    return SiteRow(site.name, site.is_online, seen, site.last_round, approval, version, site.last_rejection, reason)


def version_text(site: SiteStatus, machine: Machine | None) -> str:
    """Return a site's version where it is not the coordinator's; else nothing."""
    if machine is None or site.version is None or site.version == machine.version:
        return ""
    return f"runs permmoe {site.version}, the coordinator {machine.version}"


def unscored_sentence(records: Sequence[RoundSummary]) -> str:
    """Return why there is no error to show."""
    if any(record.has_evaluation for record in records):
        return (
            "Rounds were evaluated, and of no combination of modalities had a site enough subjects for its errors to "
            "be released."
        )
    return "No round has been evaluated yet."


def approval_text(site: SiteStatus) -> str:
    """Return whether a site has approved the study, in words."""
    return {True: "approved", False: "not yet", None: "not asked yet"}[site.has_approved]


def score_rows(records: Sequence[RoundSummary], evaluated: RoundSummary) -> list[ScoreRow]:
    """Return a row for each combination that any round evaluated; `evaluated` is the last evaluated round."""
    test = records[-1].test
    rows = []
    for name, points in rmse_curves(records).items():
        best, best_at = min((value, number) for number, value in points)
        score, tested = evaluated.validation.get(name), test.get(name)
        rows.append(
            ScoreRow(
                name,
                str(score.n) if score else NOTHING,
                rmse_text(score) if score else NOTHING,
                f"{points[0][1]:.2f}",
                f"{best:.2f} ({best_at})",
                f"{rmse_text(tested)} ({tested.n})" if tested else NOTHING,
            )
        )
    return rows


def rmse_text(score: Score) -> str:
    """Return an error and, where noise was added to what it comes from, its bounds."""
    if score.between is None:
        return f"{score.rmse:.2f}"
    return f"{score.rmse:.2f}, {score.between[0]:.2f} to {score.between[1]:.2f}"


def round_row(record: RoundSummary) -> RoundRow:
    """Return the row of a round."""
    error = mean_rmse(record.validation)
    return RoundRow(
        record.round,
        len(record.trained),
        len(record.at_work),
        len(record.rejections),
        record.is_aggregated,
        f"{record.seconds:.1f}",
        NOTHING if record.train_loss is None else f"{record.train_loss:.2f}",
        NOTHING if error is None else f"{error:.2f}",
    )


def skipped_rounds_sentence(records: Sequence[RoundSummary]) -> str:
    """Return a sentence that names the rounds in which the model was not updated."""
    skipped = [str(record.round) for record in records if not record.is_aggregated]
    if not skipped:
        return "Every round so far had enough replies to update the model."
    return f"Too few replies to update the model: {_listing('round', skipped)}."


def at_work_sentence(records: Sequence[RoundSummary]) -> str:
    """Return who was at work when the last round closed, and since when; nothing where nobody was."""
    since = at_work_since(records)
    if not since:
        return ""
    names = ", ".join(f"{site} (since round {number})" for site, number in since.items())
    closed = f"At work when round {records[-1].round} closed: {names}."
    return f"{closed} A site that is at work is asked nothing else until it has answered."


def refusal_rows(refusals: Mapping[str, int]) -> list[RefusalRow]:
    """Return the gateway's rules that turned something away, the most frequent first."""
    return [
        RefusalRow(rule, gateway_reason(rule), count)
        for rule, count in sorted(refusals.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]


def support_sentence(support: Mapping[str, ModuleSupport], number: int) -> str:
    """Return sentences on the modules that one site or no site trained in round `number`."""
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


def release_sentence(release: Mapping[str, ModuleRelease], number: int) -> str:
    """Return a sentence on the modules of a secure study whose sums stayed masked in round `number`."""
    withheld = [module for module, r in release.items() if not r.last]
    if withheld:
        return (
            f"In round {number} too few sites trained {_listing('module', withheld)}: the sum stays masked where fewer "
            "than min_holders do. How many trained a module only the sites know."
        )
    if release:
        return f"Enough sites trained each of {len(release)} modules in round {number}; how many only the sites know."
    return "No module has been trained yet."


def _listing(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_MODULES])
    rest = f" and {len(names) - NAMED_MODULES} more" if len(names) > NAMED_MODULES else ""
    return f"{noun if len(names) == 1 else noun + 's'} {shown}{rest}"
