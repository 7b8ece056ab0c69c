"""Rounds of plain averaging by the server's real protocol on the in-process grid, with thin sites."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.federated.instructions import Instruction, read_instruction
from permmoe.federated.replies import write_head, write_train_reply
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb, resident_memory_mb
from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.thin_sites import SiteWatch, ThinSites, TimedRound, round_figures
from permmoe_benchmarks.library.timing import Figures
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import training_facts
from permmoe_server.studies.round_line import record_json
from permmoe_simulation.engines.grid import InProcessGrid


def plain_round(clients: int, rounds: int) -> Figures:
    """Return the figures of a round of plain averaging; memory is the server's peak above the idle process, MB."""
    sites = ThinSites.of(clients, secure=False, rounds=rounds)
    watch, app = SiteWatch(), ClientApp()

    def train(message: Message, name: str) -> RecordDict:
        instruction = read_instruction(message.content)
        reply = replace(sites.reply, site=name, round=instruction.round, model_digest=instruction.model_digest)
        content = write_train_reply(reply, instruction.up_wire)
        write_head(content, replace(sites.ledger, site=name))
        return content

    app.train()(watch.answering("train", sites.names, train))
    before = resident_memory_mb()
    forget_peak_memory()
    timed = sites.run(InProcessGrid(app, [{}] * clients), watch)
    memory = peak_memory_mb() - before
    return round_figures(timed, clients) | {"server_memory_mb": memory, **disk_figures(timed, sites)}


def disk_figures(timed: list[TimedRound], sites: ThinSites) -> Figures:
    """The bytes of a line of the round log, of an entry of one site's ledger, and of the model's parameters."""
    instruction = Instruction(sites.plan, 1, "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "site", sites.authority)
        ledger.append("training", {**training_facts(sites.reply, instruction), "bytes": 1})
        entry = ledger.path.stat().st_size
    log = len(record_json(timed[-1].record)) + 1
    return {"log_bytes": log, "ledger_entry_bytes": entry, "model_bytes": 4 * sum(map(len, sites.weights.values()))}


CURVES = (
    Curve(
        "round-plain", "plain_round", plain_round, "clients",
        {"tiny": (2, 3, 5), "quick": (10, 30, 100, 300, 1000), "full": (10, 30, 100, 300, 1000)},
        {"tiny": {"rounds": 1}, "quick": {"rounds": 3}, "full": {"rounds": 4}},
    ),
)  # fmt: skip
