"""A running coordinator: its programs kept alive, the roster's keys let in, and one study brought to its end.

The study itself runs in a process of the executor (permmoe_server.app), which permmoe_server.coordination.study_runner
starts. What a coordinator cannot do now, since its superlink is away or its disk is full, it tries again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from permmoe.errors import ConfigurationError, DataError
from permmoe.runtime.files import FULL_DISK
from permmoe.runtime.health import serve_health
from permmoe.runtime.tracking.tracker import NOT_TRACKED, Tracking
from permmoe_server.coordination.admission import KnownSite, admit, write_directory
from permmoe_server.coordination.ports import coordinator_ports, require_free_ports
from permmoe_server.coordination.processes import kept_running
from permmoe_server.coordination.programs import prepare, programs
from permmoe_server.coordination.region_keeper import KeptRegions, kept_regions, known_sites, sites_of
from permmoe_server.coordination.site_reports import SitePapers, SiteReports, first_status
from permmoe_server.coordination.study_runner import Progress, StudyFailed, StudyHeldUp, StudyRunner
from permmoe_server.coordination.superlink import Superlink, SuperlinkAway
from permmoe_server.coordination.upkeep import Upkeep
from permmoe_server.gateway.refusals import read_refusals
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.folder_locks import running
from permmoe_server.settings import ServerConfig, read_server
from permmoe_server.status.admin import STALE_SECONDS, is_healthy, make_admin, serve_admin
from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import RegionStatus
from permmoe_server.studies.round_log import RoundLog
from permmoe_server.studies.study_folder import Study, keep_judged, keep_study
from permmoe_server.studies.tracked_rounds import TrackedRounds

LOG = logging.getLogger("permmoe.server")

TICK_SECONDS = 1.0


def coordinate(
    folder: FederationFolder,
    study: Study | None,
    stop: threading.Event,
    *,
    stay: bool = False,
    tracking: Tracking = NOT_TRACKED,
) -> None:
    """Run until the study ends, or until `stop` is set where there is none, or with `stay`.

    A start that is refused changes nothing. Raises StudyFailed where nobody can bring the study to its end,
    StudyHeldUp where it waited for too long without `stay`, ConfigurationError for a folder or a port that cannot be
    used.
    """
    settings = read_server(folder.settings)
    with running(folder):
        administration.require_secret_keys(folder)
        require_free_ports(coordinator_ports(settings))
        roster = administration.list_sites(folder)
        if study:
            keep_judged(study)
            keep_study(folder, study)
        prepare(folder)
        board = StatusBoard(first_status(roster, study))
        with (
            _observed(board, settings),
            kept_running(programs(folder)) as tend,
            kept_regions(folder) as regions,
        ):
            tracked = TrackedRounds(tracking, study.plan) if study else None
            _Coordinator(folder, settings, study, board, tracked, regions, stay=stay).run(tend, stop)


class _Coordinator:
    def __init__(
        self,
        folder: FederationFolder,
        settings: ServerConfig,
        study: Study | None,
        board: StatusBoard,
        tracked: TrackedRounds | None,
        regions: KeptRegions,
        *,
        stay: bool,
    ) -> None:
        self._tracked, self._regions = tracked, regions
        self._folder, self._board, self._stay = folder, board, stay
        self._superlink = Superlink(folder.superlink_socket)
        self._rounds = RoundLog(study.rounds) if study else None
        self._quorum_seconds = settings.quorum_seconds
        self._runner = (
            StudyRunner(folder, study, self._superlink, settings.quorum_seconds, stay=stay) if study else None
        )
        self._reports, self._upkeep = SiteReports(), Upkeep(folder)
        self._idle_since: float | None = None
        """Since when it can do nothing; None while it can."""

    def run(self, tend: Callable[[], None], stop: threading.Event) -> None:
        """Run until the end that `coordinate` describes."""
        progress = Progress("starting" if self._runner else "waiting")
        while not stop.is_set():
            tend()
            sites: Sequence[KnownSite] | None = None
            try:
                sites = self._admit()
                if self._runner and not progress.is_over:
                    progress = self._runner.advance(sites, self._board.snapshot().rounds_done)
                self._idle_since = None
            except SuperlinkAway:
                # It is being started, for the first time or again; what it knows is in its database.
                progress = self._idle(progress, "Flower's superlink does not answer; superlink.log says why")
            except (ConfigurationError, DataError) as error:
                # A file of the folder that was right at the start is not now: somebody may be putting it back.
                progress = self._idle(progress, str(error))
            except OSError as error:
                if error.errno not in FULL_DISK:
                    raise
                progress = self._idle(progress, f"{error.strerror or 'the disk is full'}; make room")
            except StudyFailed as failure:
                LOG.error("%s", failure)
                progress = Progress("failed", str(failure), is_over=True)
                self._report(progress, sites)
                if not self._stay:
                    raise
            self._report(progress, sites)
            if progress.is_over and not self._stay:
                return
            stop.wait(TICK_SECONDS)

    def _admit(self) -> tuple[KnownSite, ...]:
        roster = administration.list_sites(self._folder)
        self._upkeep.look(monotonic(), datetime.now(UTC))
        self._board.update(roster_serial=roster.serial, machine=self._upkeep.machine)
        self._regions.tend()
        own = admit(sites_of(roster, ""), self._superlink)
        sites = known_sites(roster, own, self._regions.states)
        # Those of the coordinator's own superlink come first: what a region says displaces none of them.
        write_directory(self._folder.sites, [*own, *sites])
        return sites

    def _idle(self, progress: Progress, reason: str) -> Progress:
        """Wait for what the coordinator itself needs; a while of it is usual."""
        now = monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        waited = now - self._idle_since
        if progress.is_over or waited < STALE_SECONDS:
            return progress
        if not self._stay and waited > self._quorum_seconds:
            raise StudyHeldUp(f"{reason}; the same command goes on")
        return Progress("stalled", f"{reason}.", standing=progress.standing)

    def _report(self, progress: Progress, sites: Sequence[KnownSite] | None) -> None:
        """Put the newest facts on the status board; where sites are None, the earlier ones stay."""
        records = self._rounds.read() if self._rounds else ()
        if self._tracked:
            self._tracked.show(records, is_finished=progress.phase == "finished")
        changes: dict[str, Any] = {}
        regions = self._regions.states
        if sites is not None:
            told = {site: version for region in regions for site, version in region.news.versions.items()}
            papers = SitePapers(self._upkeep.versions(told), self._upkeep.certificate_ends)
            changes["sites"] = self._reports.of(sites, records, progress.standing.readiness, papers, datetime.now(UTC))
        self._board.update(
            phase=progress.phase,
            detail=progress.detail,
            records=records,
            regions=tuple(RegionStatus(one.name, one.is_there, one.news.certificate_end) for one in regions),
            refusals=_added(read_refusals(self._folder.refusals), *(region.news.refusals for region in regions)),
            **changes,
        )


def _added(*counts: Mapping[str, int]) -> dict[str, int]:
    rules = {rule for count in counts for rule in count}
    return {rule: sum(count.get(rule, 0) for count in counts) for rule in sorted(rules)}


@contextmanager
def _observed(board: StatusBoard, settings: ServerConfig) -> Iterator[None]:
    """Offer the status page and the health service for as long as the block lasts."""
    admin = serve_admin(make_admin(board, settings.admin_names), settings.admin_host, settings.admin_port)
    health = serve_health(f"127.0.0.1:{settings.health_port}", lambda: is_healthy(board))
    thread = threading.Thread(target=admin.run, name="admin", daemon=True)
    thread.start()
    LOG.info("status page: http://%s:%d/", settings.admin_host, settings.admin_port)
    try:
        yield
    finally:
        admin.should_exit = True
        health.stop(0)
        thread.join(5)
