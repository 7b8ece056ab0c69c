"""Prometheus metrics of a status. A site can choose no value of a label beyond its name on the roster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    StateSetMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from permmoe_server.protocol.rules import REPLY_RULES
from permmoe_server.status.coordinator_status import PHASES, CoordinatorStatus
from permmoe_server.status.findings import last_validation, mean_rmse

SITE_ERROR = "site_error"
"""The label of every error at a site: a site chooses the names of its errors, so their number has no bound."""


def registry_of(snapshot: Callable[[], CoordinatorStatus]) -> CollectorRegistry:
    """Return a new registry that takes a snapshot each time it is read."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusCollector(snapshot))
    return registry


class _StatusCollector(Collector):
    def __init__(self, snapshot: Callable[[], CoordinatorStatus]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from metrics(self._snapshot())


def metrics(status: CoordinatorStatus) -> Iterator[Metric]:
    """Yield every metric with its help text; counters count since the study began, over restarts."""
    records = status.records
    phase: dict[str, bool] = {name: name == status.phase for name in PHASES}
    yield StateSetMetricFamily("permmoe_phase", "What the federation is doing; one phase is 1.", phase)
    stalled = float(status.phase in ("stalled", "failed"))
    yield GaugeMetricFamily("permmoe_study_stalled", "Whether somebody has to mend something.", stalled)
    yield from _machine(status)
    yield GaugeMetricFamily("permmoe_rounds_done", "Rounds of the study that are done.", status.rounds_done)
    yield GaugeMetricFamily(
        "permmoe_rounds_lost", "Rounds whose number a failed secure try used up.", status.rounds_lost
    )
    yield GaugeMetricFamily("permmoe_rounds_planned", "Rounds that the study has.", status.rounds_total)
    seconds = sum(record.seconds for record in records)
    yield SummaryMetricFamily("permmoe_round_seconds", "Time of rounds, seconds.", len(records), seconds)
    if records:
        yield GaugeMetricFamily("permmoe_last_round_seconds", "Time of the last round, seconds.", records[-1].seconds)
    yield GaugeMetricFamily("permmoe_sites", "Sites on the roster.", len(status.sites))
    yield GaugeMetricFamily("permmoe_sites_online", "Sites of the roster that are connected.", status.sites_online)
    online = GaugeMetricFamily("permmoe_site_online", "Whether a site is connected.", labels=["site"])
    for site in status.sites:
        online.add_metric([site.name], float(site.is_online))
    yield online
    regions = GaugeMetricFamily("permmoe_region_up", "Whether a region's superlink answers.", labels=["region"])
    for region in status.regions:
        regions.add_metric([region.name], float(region.is_there))
    yield regions
    approved = GaugeMetricFamily(
        "permmoe_site_approved", "Whether a site has approved the study; absent until it was asked.", labels=["site"]
    )
    for site in status.sites:
        if site.has_approved is not None:
            approved.add_metric([site.name], float(site.has_approved))
    yield approved
    yield _counter("permmoe_rejected_replies", "Replies that no round used.", _rejected(status))
    yield _counter("permmoe_gateway_refusals", "Requests and connections turned away.", Counter(status.refusals))
    down, up = (sum(getattr(record, name) for record in records) for name in ("bytes_down", "bytes_up"))
    yield CounterMetricFamily("permmoe_sent_bytes", "Training payload sent to sites, bytes.", down)
    yield CounterMetricFamily("permmoe_received_bytes", "Training payload received from sites, bytes.", up)
    yield from _scores(status)


def _machine(status: CoordinatorStatus) -> Iterator[Metric]:
    """Yield what is known of the coordinator's program, certificates and disk."""
    machine = status.machine
    if machine is None:
        return
    build = GaugeMetricFamily("permmoe_build_info", "The coordinator's version; always 1.", labels=["version"])
    build.add_metric([machine.version], 1.0)
    ends = GaugeMetricFamily(
        "permmoe_certificate_end_timestamp_seconds", "When a certificate ends.", labels=["kind", "site"]
    )
    ends.add_metric(["server", ""], machine.server_end.timestamp())
    ends.add_metric(["authority", ""], machine.authority_end.timestamp())
    differs = GaugeMetricFamily(
        "permmoe_site_version_differs", "Whether a site runs another version than the coordinator.", labels=["site"]
    )
    for site in status.sites:
        if site.certificate_end is not None:
            ends.add_metric(["site", site.name], site.certificate_end.timestamp())
        if site.version is not None:
            differs.add_metric([site.name], float(site.version != machine.version))
    for region in status.regions:
        if region.certificate_end is not None:
            ends.add_metric(["region", region.name], region.certificate_end.timestamp())
    yield from (build, ends, differs)
    yield GaugeMetricFamily("permmoe_disk_free_bytes", "Free for the federation's folder.", machine.free_bytes)


def _counter(name: str, text: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["rule"])
    for rule, count in sorted(counts.items()):
        family.add_metric([rule], count)
    return family


def _rejected(status: CoordinatorStatus) -> Counter[str]:
    rules = (rejection.rule for record in status.records for rejection in record.rejections)
    return Counter(rule if rule in REPLY_RULES else SITE_ERROR for rule in rules)


def _scores(status: CoordinatorStatus) -> Iterator[Metric]:
    """Yield the newest evaluation; a label of every series says whether its data are synthetic."""
    data = {True: "synthetic", False: "real", None: "unknown"}[status.is_synthetic]
    labels = ["combination", "data"]
    rmse = GaugeMetricFamily(
        "permmoe_validation_rmse_points",
        "RMSE of the newest model, in the study's unit; an estimate in a private study.",
        labels=labels,
    )
    visits = GaugeMetricFamily("permmoe_validation_visits", "Visits that the RMSE is over.", labels=labels)
    mean = GaugeMetricFamily(
        "permmoe_validation_mean_rmse_points", "Root of the squared error averaged over combinations.", labels=["data"]
    )
    evaluated = last_validation(status.records)
    if evaluated:
        for name, score in evaluated.validation.items():
            rmse.add_metric([name, data], score.rmse)
            visits.add_metric([name, data], score.n)
        mean.add_metric([data], mean_rmse(evaluated.validation) or 0.0)
    yield from (rmse, visits, mean)
