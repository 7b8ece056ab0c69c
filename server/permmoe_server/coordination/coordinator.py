"""A running coordinator: its programs kept alive, the roster's keys let in, and one study brought to its end.

The study itself runs in a process of the executor (permmoe_server.app). Where that ends early it is started again and
goes on from its last checkpoint; after `MAX_STARTS` starts without a finished round between them the study has failed.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from permmoe.errors import PermmoeError
from permmoe.federated.roster import Roster
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe.runtime.health import serve_health
from permmoe_server.coordination.processes import Child
from permmoe_server.coordination.programs import prepare, programs
from permmoe_server.coordination.superlink import NodeState, Superlink, SuperlinkAway, key_bytes
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.settings import ServerConfig, read_server
from permmoe_server.status.admin import make_admin, serve_admin
from permmoe_server.status.board import StatusBoard
from permmoe_server.status.coordinator_status import CoordinatorStatus, SiteStatus
from permmoe_server.status.findings import last_rounds
from permmoe_server.studies.registry import register
from permmoe_server.studies.round_log import RoundLog, RoundSummary
from permmoe_server.studies.study_folder import Study

LOG = logging.getLogger("permmoe.server")

TICK_SECONDS = 0.5
MAX_STARTS = 3
HEALTHY_PHASES = ("waiting", "running", "finished")


class StudyFailed(PermmoeError):
    """A study that ended without its last round."""


@dataclass(frozen=True)
class _Site:
    """A site of the roster and what the superlink calls it."""

    name: str
    node_id: int
    is_online: bool


def coordinate(folder: FederationFolder, study: Study | None, stop: threading.Event, *, stay: bool = False) -> None:
    """Run until the study ends, or until `stop` is set where there is none, or with `stay`.

    Raises StudyFailed where the study ended without its last round, ConfigurationError for a folder or a port that
    cannot be used.
    """
    settings = read_server(folder.settings)
    with administration.running(folder):
        prepare(folder)
        roster = administration.list_sites(folder)
        board = StatusBoard(_first_status(roster, study))
        with _observed(board, settings), _children(folder, settings) as tend:
            _Coordinator(folder, settings, study, board).run(tend, stop, stay=stay)


class _Coordinator:
    def __init__(
        self, folder: FederationFolder, settings: ServerConfig, study: Study | None, board: StatusBoard
    ) -> None:
        self._folder, self._study, self._board = folder, study, board
        self._superlink = Superlink(settings.superlink_port, folder.authority)
        self._rounds = RoundLog(study.rounds) if study else None
        self._run_id: int | None = None
        self._starts = 0
        self._rounds_at_start = -1
        self._wait_until = monotonic() + settings.quorum_seconds
        self._quorum_seconds = settings.quorum_seconds
        self._last_seen: dict[str, datetime] = {}

    def run(self, tend: Callable[[], None], stop: threading.Event, *, stay: bool) -> None:
        """Run until the end that `coordinate` describes."""
        is_over = False
        while not stop.is_set():
            tend()
            try:
                sites = self._admit()
                if self._study and not is_over:
                    is_over = self._advance(self._study, sites)
            except SuperlinkAway:
                # It is being started, for the first time or again; what it knows is in its database.
                sites = None
            except StudyFailed as failure:
                LOG.error("%s", failure)
                self._report(None, phase="failed", detail=str(failure))
                if not stay:
                    raise
                is_over, sites = True, None
            self._report(sites)
            if is_over and not stay:
                return
            stop.wait(TICK_SECONDS)

    def _admit(self) -> tuple[_Site, ...]:
        """Let in the keys of the present roster and no others; write for the server app which node is which site."""
        roster = administration.list_sites(self._folder)
        wanted = {key_bytes(site.public_key): site for site in roster.sites}
        known = {node.public_key: node for node in self._superlink.nodes()}
        for key, node in known.items():
            if key not in wanted:
                self._superlink.unregister(node.node_id)
                LOG.info("a site that is no longer on the roster is shut out")
        for key in wanted.keys() - known.keys():
            site = wanted[key]
            known[key] = NodeState(self._superlink.register(site.public_key, site.name), key, False)
            LOG.info("site %s may connect", site.name)
        sites = tuple(_Site(s.name, known[key].node_id, known[key].is_online) for key, s in wanted.items())
        text = json.dumps({str(site.node_id): site.name for site in sites}).encode()
        if not self._folder.sites.exists() or self._folder.sites.read_bytes() != text:
            write_file(self._folder.sites, text, mode=PUBLIC_MODE)
        self._board.update(roster_serial=roster.serial)
        return sites

    def _advance(self, study: Study, sites: tuple[_Site, ...]) -> bool:
        """Take one step of the study; return whether it is over. Raises StudyFailed."""
        if self._run_id is None:
            return self._start_when_enough(study, sites)
        state = self._superlink.run_state(self._run_id)
        if not state.is_finished:
            return False
        self._run_id = None
        if state.is_completed:
            kept = register(self._folder, study.model, datetime.now(UTC))
            LOG.info("the study is finished; its model is registered as %s", kept.name)
            self._board.update(phase="finished", detail=f"Its model is registered as {kept.name}.")
            return True
        LOG.warning("the run ended early (%s); the executor's log says why", state.detail)
        self._wait_until = monotonic() + self._quorum_seconds
        return False

    def _start_when_enough(self, study: Study, sites: tuple[_Site, ...]) -> bool:
        online, needed = sum(site.is_online for site in sites), study.plan.federation.least_sites
        if online < needed:
            if monotonic() > self._wait_until:
                raise StudyFailed(
                    f"{online} of the {needed} sites that the study needs were online within "
                    f"{self._quorum_seconds:.0f} s; see that they run, then start permmoe-server again"
                )
            self._board.update(phase="waiting", detail=f"{needed} sites have to be online, {online} are.")
            return False
        done = self._board.snapshot().rounds_done
        self._starts = self._starts + 1 if done == self._rounds_at_start else 1
        self._rounds_at_start = done
        if self._starts > MAX_STARTS:
            raise StudyFailed(
                f"the study ended {MAX_STARTS} times without finishing round {done + 1}; "
                f"{self._folder.logs / 'executor.log'} says why"
            )
        self._run_id = self._superlink.start_run(
            {
                "plan": str(study.plan_file),
                "out": str(study.folder),
                "sites": str(self._folder.sites),
                "roster": str(self._folder.roster),
                "authority": str(self._folder.authority),
                "server-key": str(self._folder.server_key),
                "server-certificate": str(self._folder.server),
            }
        )
        LOG.info("study %s: started with %d sites, from round %d", study.plan.name, online, done + 1)
        self._board.update(phase="running", detail="")
        return False

    def _report(self, sites: tuple[_Site, ...] | None, **changes: Any) -> None:
        """Put the newest facts on the status board; where sites are None, the earlier ones stay."""
        records = self._rounds.read() if self._rounds else ()
        if sites is not None:
            now = datetime.now(UTC)
            self._last_seen |= {site.name: now for site in sites if site.is_online}
            changes["sites"] = tuple(_site_status(site, self._last_seen, records) for site in sites)
        self._board.update(records=records, refusals=_refusals(self._folder), **changes)


def _site_status(site: _Site, last_seen: Mapping[str, datetime], records: tuple[RoundSummary, ...]) -> SiteStatus:
    broken = (
        rejection.rule
        for record in reversed(records)
        for rejection in record.rejections
        if rejection.node == site.node_id
    )
    return SiteStatus(
        site.name, site.is_online, last_seen.get(site.name), last_rounds(records).get(site.name), next(broken, None)
    )


def _first_status(roster: Roster, study: Study | None) -> CoordinatorStatus:
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
    )


def _refusals(folder: FederationFolder) -> dict[str, int]:
    try:
        counts: dict[str, int] = json.loads(folder.refusals.read_text())
    except (OSError, ValueError):
        return {}
    return counts


@contextmanager
def _observed(board: StatusBoard, settings: ServerConfig) -> Iterator[None]:
    """Offer the status page and the health service for as long as the block lasts."""
    admin = serve_admin(make_admin(board, settings.admin_names), settings.admin_host, settings.admin_port)
    health = serve_health(
        f"127.0.0.1:{settings.health_port}", lambda: board.snapshot().phase in HEALTHY_PHASES and _is_fresh(board)
    )
    thread = threading.Thread(target=admin.run, name="admin", daemon=True)
    thread.start()
    LOG.info("status page: http://%s:%d/", settings.admin_host, settings.admin_port)
    try:
        yield
    finally:
        admin.should_exit = True
        health.stop(0)
        thread.join(5)


def _is_fresh(board: StatusBoard) -> bool:
    return board.age_seconds() < 60


@contextmanager
def _children(folder: FederationFolder, settings: ServerConfig) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the programs, and starts again those that ended; stop them at the end."""
    children = [Child(program) for program in programs(folder, settings)]

    def tend() -> None:
        for child in children:
            child.tend()

    try:
        yield tend
    finally:
        for child in reversed(children):
            child.stop()
