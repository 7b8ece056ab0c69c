"""A round's record as a line of `rounds.jsonl`; permmoe_server.studies.round_log reads such lines.

The keys and their order are fixed: what only one kind of round knows is written as 0, empty or false by the other. Only
an update that came late has one more, its staleness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from permmoe.federated.training_figures import TrainingFigures
from permmoe_server.protocol.round_records import Evaluation, RoundRecord, SecureFigures, SiteRecord, SiteTraining

NO_TRAINING = SiteTraining(TrainingFigures(), 0.0, ())
"""The text for a value of a site that is unknown."""


def record_json(record: RoundRecord) -> str:
    """Return a round's record on one line."""
    training, secure = record.training, record.training.secure or SecureFigures()
    line = {
        "round": record.round,
        "is_aggregated": record.is_aggregated,
        "sites": [_site(site) for site in record.sites],
        "train_loss": training.loss,
        "seconds": record.seconds,
        "validation": _evaluation(record.validation),
        "test": _evaluation(record.test),
        "is_secure": training.secure is not None,
        "released": secure.released,
        "withheld": secure.withheld,
        "visits": training.visits,
        "stage_seconds": _stage_seconds(record),
        "is_spent": secure.is_used_up,
    }
    return json.dumps(line, separators=(",", ":"))


def _evaluation(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    written = asdict(replace(evaluation, scores=None))
    del written["scores"]
    if not evaluation.further:
        del written["further"]
    if not evaluation.bounds:
        del written["bounds"]
    return written


def _site(site: SiteRecord) -> dict[str, Any]:
    training = site.training or NO_TRAINING
    return {
        "node": site.node,
        "site": site.site,
        "bytes_down": site.bytes_down,
        "bytes_up": site.bytes_up,
        **training.figures.for_round_log(),
        "server_seconds": training.server_seconds,
        "modules": training.modules,
        "ledger": site.ledger,
        "rejected": site.rejected,
        "lost_at": site.lost_at,
        **({"staleness": training.staleness} if training.staleness else {}),
    }


def _stage_seconds(record: RoundRecord) -> Mapping[str, float]:
    """Return the seconds by stage without the sites' own; after a secure round the server's step is not listed."""
    seconds = dict(record.training.stage_seconds)
    if record.step_seconds is not None and record.training.secure is None:
        seconds["step"] = record.step_seconds
    if record.evaluate_seconds is not None:
        seconds["evaluate"] = record.evaluate_seconds
    return seconds
