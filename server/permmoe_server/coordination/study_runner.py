"""One study brought to its end: its process started, started again where it ends early, its model registered.

What somebody can mend is waited out: approvals, sites that are absent, replies that no round could use, a full disk.
With `--stay` that takes as long as it takes. Without, the coordinator waits `quorum_seconds` at a time and then ends
with the status that says "try again"; the same command goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol, runtime_checkable

from permmoe.errors import PermmoeError, TryAgainLater
from permmoe_server.coordination.admission import KnownSite
from permmoe_server.coordination.superlink import RunState
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.status.coordinator_status import Phase
from permmoe_server.status.waiting import waiting_sentence
from permmoe_server.studies.registry import NothingTrained, register
from permmoe_server.studies.standing import Standing, read_standing
from permmoe_server.studies.study_folder import Study

LOG = logging.getLogger("permmoe.server")

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 300.0
"""Pauses before a study's process is started again that has ended twice without a finished round between; each is twice
the one before. After one end it is started again at once."""


class StudyFailed(PermmoeError):
    """A study that nobody can bring to its end."""


class StudyHeldUp(TryAgainLater):
    """A study that waited for something that somebody can mend for as long as it was to wait."""


@runtime_checkable
class StudyProcesses(Protocol):
    """What starts the study's process, and knows how it stands: the superlink."""

    def start_run(self, run_config: Mapping[str, str]) -> int:
        """Start the study's process with these settings; return the run's identifier."""

    def run_state(self, run_id: int) -> RunState:
        """Return the state of a run."""


@dataclass(frozen=True)
class Progress:
    """Where the study stands."""

    phase: Phase
    detail: str = ""
    is_over: bool = False
    """Whether nothing is left to do."""
    standing: Standing = field(default_factory=Standing)


class StudyRunner:
    """Takes a study forward, a step at each call."""

    def __init__(
        self,
        folder: FederationFolder,
        study: Study,
        superlink: StudyProcesses,
        quorum_seconds: float,
        clock: Callable[[], float] = monotonic,
        *,
        stay: bool,
    ) -> None:
        """`quorum_seconds`: how long it waits for something to be mended; with `stay` for as long as that takes."""
        self._folder, self._study, self._superlink = folder, study, superlink
        self._quorum_seconds, self._clock, self._stay = quorum_seconds, clock, stay
        self._run_id: int | None = None
        self._has_completed = False
        self._waiting_since: float | None = None
        self._failing_since: float | None = None
        self._failures, self._start_at = 0, 0.0
        self._trouble = ""
        self._rounds_at_start = 0

    def advance(self, sites: Sequence[KnownSite], rounds_done: int) -> Progress:
        """Take one step. `rounds_done`: rounds that the study has finished.

        Raises StudyFailed, StudyHeldUp, SuperlinkAway, and OSError where the disk is full; it may be called again.
        """
        if self._has_completed:
            return self._finished()
        if self._run_id is None:
            return self._start_when_possible(sites, rounds_done)
        state = self._superlink.run_state(self._run_id)
        if state.is_finished:
            self._run_id = None
            return self._ended(state, sites, rounds_done)
        standing = read_standing(self._study.standing_file)
        readiness = standing.readiness
        if readiness is not None and readiness.is_waiting:
            return self._waiting(waiting_sentence(readiness, _offline(sites)), standing, has_begun=rounds_done > 0)
        self._waiting_since = None
        return Progress("running", standing=standing)

    def _start_when_possible(self, sites: Sequence[KnownSite], rounds_done: int) -> Progress:
        if self._study.stop_file.exists():
            return Progress("stopped", "permmoe-server study resume lets it go on.", is_over=not self._stay)
        if self._clock() < self._start_at:
            return self._failing()
        online, needed = sum(site.is_online for site in sites), self._study.plan.federation.least_sites
        if online < needed:
            absent = ", ".join(_offline(sites)) or "no other site is on the roster"
            return self._waiting(
                f"{needed} sites have to be online, {online} are; offline: {absent}.",
                read_standing(self._study.standing_file),
                has_begun=rounds_done > 0,
            )
        folder, study = self._folder, self._study
        # What an earlier process said last is not said of this one.
        study.standing_file.unlink(missing_ok=True)
        self._run_id = self._superlink.start_run(
            {
                "plan": str(study.plan_file),
                "out": str(study.folder),
                "sites": str(folder.sites),
                "standing": str(study.standing_file),
                "stop": str(study.stop_file),
                "roster": str(folder.roster),
                "authority": str(folder.authority),
                "server-key": str(folder.server_key),
                "server-certificate": str(folder.server),
                "regions": str(folder.regions),
            }
        )
        self._waiting_since, self._rounds_at_start = None, rounds_done
        LOG.info(
            "study %s: started with %d sites online, after %d finished rounds", study.plan.name, online, rounds_done
        )
        return Progress("running")

    def _ended(self, state: RunState, sites: Sequence[KnownSite], rounds_done: int) -> Progress:
        """The study's process has ended: the study is over, or stopped, or the process is started again later."""
        standing = read_standing(self._study.standing_file)
        if standing.has_stopped:
            LOG.info("the study was asked to stop, and has after %d finished rounds", rounds_done)
            return self._start_when_possible(sites, rounds_done)
        if state.is_completed:
            self._has_completed = True
            return self._finished()
        if standing.is_lost:
            raise StudyFailed(standing.ended)
        if rounds_done > self._rounds_at_start:
            self._failing_since, self._failures = None, 0
        now = self._clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._failures += 1
        if self._failures > 1:
            self._start_at = now + min(FIRST_RETRY_SECONDS * 2.0 ** (self._failures - 2), LAST_RETRY_SECONDS)
        self._trouble = standing.ended or f"{state.detail}; {self._folder.logs / 'executor.log'} says why"
        LOG.warning("the study's process ended early: %s", self._trouble)
        if not self._stay and now - self._failing_since > self._quorum_seconds:
            raise StudyHeldUp(f"the study finished no round: {self._trouble}; the same command goes on")
        return self._failing() if self._failures > 1 else Progress("running", standing=standing)

    def _failing(self) -> Progress:
        seconds = max(0.0, self._start_at - self._clock())
        return Progress(
            "stalled", f"The study's process ended: {self._trouble}. It is started again in {seconds:.0f} s."
        )

    def _waiting(self, sentence: str, standing: Standing, *, has_begun: bool) -> Progress:
        """Wait on. A study that was under way and waits for longer than `quorum_seconds` is stalled."""
        now = self._clock()
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        waited = now - self._waiting_since
        if not self._stay and waited > self._quorum_seconds:
            raise StudyHeldUp(
                f"{sentence} The study waited for {self._quorum_seconds:.0f} s (quorum_seconds); the same command goes "
                "on, and with --stay it waits for as long as it takes"
            )
        is_stalled = has_begun and waited > self._quorum_seconds
        return Progress("stalled" if is_stalled else "waiting", sentence, standing=standing)

    def _finished(self) -> Progress:
        """Register the model. A study whose rounds all failed, or trained nothing, has none; nor have a survey and an
        evaluation."""
        if self._study.plan.survey is not None:
            return Progress("finished", "Its numbers are there: permmoe-server survey shows them.", is_over=True)
        if self._study.plan.evaluation is not None:
            return Progress("finished", "Its figures are there: permmoe-server models judged shows them.", is_over=True)
        try:
            kept = register(self._folder, self._study.model, datetime.now(UTC))
        except NothingTrained as nothing:
            return Progress("finished", f"No model is registered: {nothing}.", is_over=True)
        LOG.info("the study is finished; its model is registered as %s", kept.name)
        return Progress("finished", f"Its model is registered as {kept.name}.", is_over=True)


def _offline(sites: Sequence[KnownSite]) -> list[str]:
    return [site.name for site in sites if not site.is_online]
