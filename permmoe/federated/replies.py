"""Replies: what a site sends back after training or evaluating. Their values are for the server to accept or not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Int64

from permmoe.calibration.score_counts import N_BINS
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.accounting import Spent
from permmoe.federated.audit import LedgerHead
from permmoe.federated.federation_config import Wire
from permmoe.federated.module_records import read_modules, write_modules
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.private_errors import ErrorCounts
from permmoe.federated.records import MalformedRecord, number, record_of, typed
from permmoe.federated.roster import SITE_NAME
from permmoe.federated.summed_scores import Scores
from permmoe.federated.training_figures import FIGURES, TrainingFigures, missing_rule
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import Bytes, pack, packed_size, unpack

LEDGER_HEAD = re.compile(r"[0-9]{1,18} [0-9a-f]{64}")
"""A ledger's newest entry: its number and SHA-256."""


@dataclass(frozen=True)
class TrainReply:
    """The result of a site's training in one round."""

    site: str
    round: int
    model_digest: str
    """The digest of the model that the site was sent and started from."""
    updates: Mapping[str, ModuleUpdate]
    """Updates by module, only those with a support above zero."""
    figures: TrainingFigures
    modalities: tuple[str, ...] = ()
    """The modalities that the site's visits have, so that modules of others need not travel; empty if not stated."""
    head: LedgerHead | None = None
    """The newest entry of the site's ledger, which records this reply; None where the site keeps no ledger."""
    spent: tuple[Spent, ...] = ()
    """The privacy budget that the training spent, for the ledger; it is never sent."""


@dataclass(frozen=True)
class EvaluationReply:
    """A site's evaluation of the model, by combination."""

    site: str
    round: int
    model_digest: str
    sums: Mapping[str, ErrorSums]
    head: LedgerHead | None = None
    """The newest entry of the site's ledger, as in a training reply."""
    further: Mapping[str, FurtherSums] = field(default_factory=dict)
    """Of the same combinations; only where a study judges a finished model."""
    scores: Scores = field(default_factory=dict)
    """Of the same combinations; only where the study asks for them (`asks_for_scores`)."""
    severity: Scores = field(default_factory=dict)
    """Those of a severity group, by combination and group (`of_group`); only where the study asks for them."""
    noised: ErrorCounts | None = None
    """In place of all of these, in a private study: counts of errors with noise."""
    spent: tuple[Spent, ...] = ()
    """The privacy budget that they spent, for the ledger; it is never sent."""


def write_train_reply(reply: TrainReply, wire: Wire = "fp32") -> RecordDict:
    """Write a site's reply to a training instruction."""
    header = _header(reply)
    if reply.modalities:
        header["modalities"] = list(reply.modalities)
    return RecordDict(
        {
            "reply": header,
            "update": write_modules(pack_updates(reply, wire)),
            "support": MetricRecord({name: update.support for name, update in reply.updates.items()}),
            "figures": MetricRecord(dict(reply.figures.by_name())),
        }
    )


def pack_updates(reply: TrainReply, wire: Wire = "fp32") -> dict[str, Bytes]:
    """Return the changes of a reply as they travel, by module."""
    return {name: pack(update.weighted_delta, wire) for name, update in reply.updates.items()}


def read_train_reply(content: RecordDict, layout: ModuleLayout, wire: Wire = "fp32") -> TrainReply:
    """Return a site's reply, complete and of the right types and shapes; its values are not checked here.

    Raises MalformedRecord.
    """
    site, round_number, digest = _read_header(content)
    # A module is sent exactly where a support is: the supports' names say what the array holds.
    support = record_of(content, "support", MetricRecord)
    if any(name not in layout.slices for name in support):
        raise MalformedRecord("unknown_module")
    figures = record_of(content, "figures", MetricRecord)
    sizes = {name: packed_size(layout.size(name), wire) for name in support}
    updates = {
        name: ModuleUpdate(unpack(packed, layout.size(name), wire), number(support, name, "missing_support"))
        for name, packed in read_modules(record_of(content, "update", ArrayRecord), sizes).items()
    }
    return TrainReply(
        site,
        round_number,
        digest,
        updates,
        TrainingFigures(**{name: number(figures, name, missing_rule(name)) for name in FIGURES}),
        _read_modalities(content),
        read_head(content, site),
    )


def _read_modalities(content: RecordDict) -> tuple[str, ...]:
    names = record_of(content, "reply", ConfigRecord).get("modalities", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedRecord("modalities")
    return tuple(str(name) for name in names)


def write_evaluation_reply(reply: EvaluationReply) -> RecordDict:
    """Write a site's reply to an evaluation instruction: for each combination n and four sums."""
    sums = MetricRecord()
    for name, s in reply.sums.items():
        sums[name] = [float(value) for value in astuple(s)]
    content = RecordDict({"reply": _header(reply), "sums": sums})
    if reply.further:
        content["further"] = MetricRecord({name: [f.signed, f.fourth] for name, f in reply.further.items()})
    if reply.scores:
        content["scores"] = MetricRecord({name: _sparse(row) for name, row in reply.scores.items()})
    if reply.severity:
        content["severity"] = MetricRecord({name: _sparse(row) for name, row in reply.severity.items()})
    if reply.noised is not None:
        content["noised"] = MetricRecord({str(place): row for place, row in enumerate(reply.noised.tolist())})
    return content


def _sparse(row: Int64[np.ndarray, " bin"]) -> list[int]:
    """Bin and visits of each bin that is not empty, one after another."""
    return [value for bin_of in np.flatnonzero(row).tolist() for value in (bin_of, int(row[bin_of]))]


def read_evaluation_reply(content: RecordDict) -> EvaluationReply:
    """Return a site's sums, of the right types. Raises MalformedRecord."""
    sums: dict[str, ErrorSums] = {}
    for name, values in record_of(content, "sums", MetricRecord).items():
        if not isinstance(values, list) or len(values) != 5 or not float(values[0]).is_integer():
            raise MalformedRecord("sums")
        n, squared, absolute, target, target_squared = map(float, values)
        sums[name] = ErrorSums(int(n), squared, absolute, target, target_squared)
    site, round_number, digest = _read_header(content)
    return EvaluationReply(
        site,
        round_number,
        digest,
        sums,
        read_head(content, site),
        _read_further(content),
        _read_scores(content, "scores"),
        _read_scores(content, "severity"),
        _read_noised(content),
    )


def _read_noised(content: RecordDict) -> ErrorCounts | None:
    if "noised" not in content:
        return None
    record = record_of(content, "noised", MetricRecord)
    rows = [record.get(str(place)) for place in range(len(record))]
    if not all(isinstance(row, list) and all(type(n) is int and abs(n) < 1 << 62 for n in row) for row in rows):
        raise MalformedRecord("noised")
    lengths = {len(row) for row in rows if isinstance(row, list)}
    if len(lengths) != 1:
        raise MalformedRecord("noised")
    return np.array(rows, np.int64)


def _read_scores(content: RecordDict, record: str) -> dict[str, Int64[np.ndarray, " bin"]]:
    if record not in content:
        return {}
    scores: dict[str, Int64[np.ndarray, " bin"]] = {}
    for name, values in record_of(content, record, MetricRecord).items():
        if not isinstance(values, list) or len(values) % 2 or not all(type(v) is int for v in values):
            raise MalformedRecord("scores")
        bins, counts = np.array(values[::2], np.int64), np.array(values[1::2], np.int64)
        if len(bins) and not (bins[0] >= 0 and bins[-1] < N_BINS and (np.diff(bins) > 0).all()):
            raise MalformedRecord("scores")
        scores[name] = np.zeros(N_BINS, np.int64)
        scores[name][bins] = counts
    return scores


def _read_further(content: RecordDict) -> dict[str, FurtherSums]:
    if "further" not in content:
        return {}
    further: dict[str, FurtherSums] = {}
    for name, values in record_of(content, "further", MetricRecord).items():
        if not isinstance(values, list) or len(values) != 2:
            raise MalformedRecord("further_sums")
        further[name] = FurtherSums(*map(float, values))
    return further


def write_head(content: RecordDict, head: LedgerHead) -> None:
    """Add the newest entry of the site's ledger, which records this very reply."""
    record_of(content, "reply", ConfigRecord)["ledger"] = f"{head.sequence} {head.digest}"


def read_head(content: RecordDict, site: str) -> LedgerHead | None:
    """Return the newest entry of a site's ledger, if it came with the reply. Raises MalformedRecord."""
    text = record_of(content, "reply", ConfigRecord).get("ledger")
    if text is None:
        return None
    if not isinstance(text, str) or not LEDGER_HEAD.fullmatch(text):
        raise MalformedRecord("ledger_head")
    sequence, digest = text.split()
    return LedgerHead(site, int(sequence), digest)


def _header(reply: TrainReply | EvaluationReply) -> ConfigRecord:
    return ConfigRecord({"site": reply.site, "round": reply.round, "model-digest": reply.model_digest})


def _read_header(content: RecordDict) -> tuple[str, int, str]:
    header = record_of(content, "reply", ConfigRecord)
    site = typed(header, "site", str)
    if not SITE_NAME.fullmatch(site):
        raise MalformedRecord("site_name")
    return site, typed(header, "round", int), typed(header, "model-digest", str)
