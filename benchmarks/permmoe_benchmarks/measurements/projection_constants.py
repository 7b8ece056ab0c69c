"""What a projection needs beside the curves: the defaults of this version, and what the installed Flower accepts."""

from __future__ import annotations

from flwr.supercore.constant import SQL_ALLOWED_DIALECTS

from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.message_paths import WAIT_SECONDS
from permmoe.federated.roster import MAX_ROSTER_BYTES
from permmoe_benchmarks.library.cohort import default_study
from permmoe_benchmarks.library.timing import Figures
from permmoe_server.settings import GatewayLimits


def projection_constants() -> Figures:
    """Return the constants by the names that the JSON of a run has for them."""
    study, limits = default_study(), GatewayLimits()
    return {
        "rounds": study.federation.rounds,
        "local_epochs": study.federation.local_epochs,
        "epochs": study.train.epochs,
        "batch_size": study.train.batch_size,
        "stage_deadline_seconds": FederationConfig().stage_deadline_seconds,
        "wait_seconds": WAIT_SECONDS,
        "gateway_connections": limits.connections,
        "gateway_upstream_connections": limits.upstream_connections,
        "most_roster_bytes": MAX_ROSTER_BYTES,
        "superlink_databases": sorted(SQL_ALLOWED_DIALECTS),
    }
