"""What the status says of the sites, and of a coordinator that has just started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from permmoe.federated.roster import Roster
from permmoe_server.coordination.admission import KnownSite
from permmoe_server.protocol.readiness import Readiness
from permmoe_server.status.coordinator_status import CoordinatorStatus, SiteStatus
from permmoe_server.status.findings import last_rounds
from permmoe_server.studies.round_log import RoundSummary
from permmoe_server.studies.study_folder import Study


@dataclass(frozen=True)
class SitePapers:
    """What is known of sites apart from their part in a study."""

    versions: Mapping[str, str]
    """Site -> the version that it says it runs."""
    certificate_ends: Mapping[str, datetime]
    """Site -> when its newest certificate ends."""


class SiteReports:
    """Remembers for each site when it was seen, and what it last said of the study."""

    def __init__(self) -> None:
        self._last_seen: dict[str, datetime] = {}
        self._has_approved: dict[str, bool] = {}

    def of(
        self,
        sites: Sequence[KnownSite],
        records: Sequence[RoundSummary],
        readiness: Readiness | None,
        papers: SitePapers,
        now: datetime,
    ) -> tuple[SiteStatus, ...]:
        """The sites as the status shows them. `readiness`: what the study's process said last."""
        self._last_seen |= {site.name: now for site in sites if site.is_online}
        if readiness:
            self._has_approved |= dict.fromkeys(readiness.ready, True) | dict.fromkeys(readiness.unapproved, False)
        newest = last_rounds(records)
        return tuple(
            SiteStatus(
                site.name,
                site.is_online,
                self._last_seen.get(site.name),
                newest.get(site.name),
                _last_rejection(site, records),
                self._has_approved.get(site.name, True if site.name in newest else None),
                papers.versions.get(site.name),
                papers.certificate_ends.get(site.name),
            )
            for site in sites
        )


def _last_rejection(site: KnownSite, records: Sequence[RoundSummary]) -> str | None:
    rules = (r.rule for record in reversed(records) for r in record.rejections if r.node == site.node_id)
    return next(rules, None)


def first_status(roster: Roster, study: Study | None) -> CoordinatorStatus:
    """The status of a coordinator that has just started."""
    return CoordinatorStatus(
        federation=roster.federation,
        roster_serial=roster.serial,
        started=datetime.now(UTC),
        study=study.plan.name if study else None,
        study_digest=study.plan.digest() if study else None,
        phase="starting" if study else "waiting",
        rounds_total=study.plan.federation.rounds if study else 0,
        sites=tuple(SiteStatus(site.name, False) for site in roster.sites),
        is_synthetic=study.plan.is_synthetic if study else None,
        keeps_last=study is not None and study.plan.train.keep == "last",
        trains_nothing=study is not None and study.plan.kind != "training",
        unit=study.plan.model.score.in_words if study else CoordinatorStatus.unit,
    )
