"""The status of a coordinator as data, and its JSON. No fact is about a visit or a subject."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from permmoe.errors import PermmoeError
from permmoe_server.studies.round_log import RoundSummary

Phase = Literal["starting", "waiting", "running", "stalled", "stopped", "finished", "failed"]
"""`waiting`: for sites or approvals, before the study begins or for a while; `stalled`: somebody has to mend something,
and the study then goes on; `stopped`: the coordinator asked for it; `failed`: nobody can bring it to its end."""
PHASES: tuple[Phase, ...] = ("starting", "waiting", "running", "stalled", "stopped", "finished", "failed")
HEALTHY_PHASES: tuple[Phase, ...] = ("waiting", "running", "stopped", "finished")


class StatusError(PermmoeError):
    """The status of a coordinator cannot be read."""


@dataclass(frozen=True)
class SiteStatus:
    """A site of the roster."""

    name: str
    is_online: bool
    last_seen: datetime | None = None
    """None where the site was never online."""
    last_round: int | None = None
    """The last round in which the site's reply was accepted."""
    last_rejection: str | None = None
    """The rule that the site's last rejected reply broke, or the type of the error that the site reported."""
    has_approved: bool | None = None
    """Whether the hospital has approved the study; None where it has not been asked yet."""
    version: str | None = None
    """The version of this software that it runs, as it says; None before it has connected."""
    certificate_end: datetime | None = None
    """When its newest certificate ends; None where the coordinator keeps none."""


@dataclass(frozen=True)
class RegionStatus:
    """A gateway and a superlink for some of the sites."""

    name: str
    is_there: bool
    """Whether its superlink answers."""
    certificate_end: datetime | None = None
    """When its server's certificate ends; None before it has answered."""


@dataclass(frozen=True)
class Machine:
    """The coordinator's program, certificates and disk."""

    version: str
    server_end: datetime
    """When the server's certificate ends."""
    authority_end: datetime
    free_bytes: int
    """Free for the federation's folder."""


@dataclass(frozen=True)
class CoordinatorStatus:
    """All facts that the status page, the metrics and `permmoe-server status` show."""

    federation: str
    roster_serial: int
    started: datetime
    """When the coordinator started."""
    study: str | None = None
    """None where no study is set."""
    study_digest: str | None = None
    phase: Phase = "starting"
    detail: str = ""
    """A sentence on the phase, such as what the coordinator waits for; empty where there is nothing to add."""
    rounds_total: int = 0
    records: tuple[RoundSummary, ...] = ()
    """The rounds as permmoe_server.studies.round_log.RoundLog reads them, oldest first."""
    sites: tuple[SiteStatus, ...] = ()
    regions: tuple[RegionStatus, ...] = ()
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Gateway rule -> requests and connections that it turned away, those of regions included."""
    is_synthetic: bool | None = None
    """None where that is unknown."""
    machine: Machine | None = None
    """None before it has been looked at."""
    keeps_last: bool = False
    """Whether the study keeps its last round's model instead of the best round's."""
    trains_nothing: bool = False
    """Whether the study is a survey or an evaluation: no round of it has a model to tell of."""
    unit: str = "CDR-SB points"
    """What errors are in: the study's score and its unit."""

    @property
    def rounds_done(self) -> int:
        """Return the number of rounds that updated the model."""
        return sum(record.is_aggregated for record in self.records)

    @property
    def rounds_lost(self) -> int:
        """Return the number of rounds that failed secure tries used up; they count against the study's total."""
        return sum(record.is_used_up for record in self.records)

    @property
    def next_round(self) -> int:
        """Return the number of the round that is next or running; the last one's after the end."""
        return min(self.rounds_done + self.rounds_lost + 1, self.rounds_total)

    @property
    def regions_away(self) -> tuple[str, ...]:
        """Return the regions that do not answer; their sites are missing meanwhile."""
        return tuple(region.name for region in self.regions if not region.is_there)

    @property
    def sites_online(self) -> int:
        """Return the number of the roster's sites that are connected."""
        return sum(site.is_online for site in self.sites)


_STATUS = TypeAdapter(CoordinatorStatus)


def status_json(status: CoordinatorStatus) -> bytes:
    """Return the status as JSON. Each set of modules is written once, however many sites and rounds trained it."""
    values = _STATUS.dump_python(status, mode="json", exclude={"records": {"__all__": {"trained"}}})
    numbers: dict[tuple[str, ...], int] = {}
    for record, written in zip(status.records, values["records"], strict=True):
        written["trained"] = {
            site: numbers.setdefault(modules, len(numbers)) for site, modules in record.trained.items()
        }
    return json.dumps({**values, "module_sets": list(numbers)}, separators=(",", ":")).encode()


def parse_status(text: bytes) -> CoordinatorStatus:
    """Return the status that `status_json` wrote. Raises StatusError for any other text."""
    try:
        values: dict[str, Any] = json.loads(text)
        sets = values.pop("module_sets")
        for record in values["records"]:
            record["trained"] = {site: sets[number] for site, number in record["trained"].items()}
        return _STATUS.validate_python(values)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ValidationError):
        raise StatusError(
            "what answered does not speak this version's status; is it the admin port of permmoe-server?"
        ) from None
