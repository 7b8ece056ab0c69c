"""Rounds of the server's real protocol on the in-process grid, with thin sites: the server's and the sites' seconds."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.federated.instructions import Instruction, read_instruction
from permmoe.federated.replies import write_head, write_train_reply
from permmoe.federated.roster import read_roster, site_keys
from permmoe.federated.secure import messages
from permmoe.federated.secure.blocks import training_blocks, training_numbers
from permmoe.federated.secure.session import Session
from permmoe.federated.secure.site_sum import Rules, SiteSum
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb, resident_memory_mb
from permmoe_benchmarks.library.curve import Curve
from permmoe_benchmarks.library.thin_sites import SiteWatch, ThinSites, TimedRound, round_figures
from permmoe_benchmarks.library.timing import Figures
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.outbox import training_facts
from permmoe_server.protocol.secure_stages import COUNT, MASK, OPEN, SHARE
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
    return round_figures(timed, watch, clients) | {"server_memory_mb": memory, **disk_figures(timed, sites)}


def secure_round(clients: int, rounds: int) -> Figures:
    """Return the figures of a round with the secure sum: every site does its own cryptography, one after another."""
    sites = ThinSites.of(clients, secure=True, rounds=rounds)
    blocks, numbers = training_blocks(sites.layout), training_numbers(sites.reply)
    watch, sums, app = SiteWatch(), dict[str, SiteSum](), ClientApp()
    rules = Rules(sites.plan.federation.secure_threshold)

    def advertise(message: Message, name: str) -> RecordDict:
        instruction, opening = read_instruction(message.content), messages.read_session_start(message.content)
        roster = site_keys(read_roster(opening.roster, sites.authority.public_key()))
        session = Session(
            instruction.plan.digest(), "training", instruction.round, instruction.model_digest, opening.nonce
        )
        sums[name] = SiteSum(session, name, sites.keys[name], roster, rules, blocks)
        return messages.write_advertisement(sums[name].advertise())

    def share(message: Message, name: str) -> RecordDict:
        return RecordDict({"sealed": messages.write_bytes(sums[name].share(messages.read_cohort(message.content)))})

    def mask(message: Message, name: str) -> RecordDict:
        choices = messages.read_choices(message.content, sums[name].participants)
        masked = sums[name].mask(messages.read_bytes(message.content, "sealed"), choices, numbers)
        return messages.write_masked(masked, replace(sites.ledger, site=name))

    def count(message: Message, name: str) -> RecordDict:
        return messages.write_count_shares(sums[name].count(messages.read_names(message.content, "arrived")))

    def unmask(message: Message, name: str) -> RecordDict:
        evidence = messages.read_evidence(message.content, len(blocks))
        assert evidence
        sums[name].open(evidence, messages.read_keys(message.content, evidence.seeds.keys() - {name}))
        unmasking = sums[name].unmask(messages.read_names(message.content, "silent"))
        return messages.write_masks(unmasking, replace(sites.ledger, site=name))

    app.train()(watch.answering("advertise", sites.names, advertise))
    for stage, work in ((SHARE, share), (MASK, mask), (COUNT, count), (OPEN, unmask)):
        name = stage.removeprefix("query.")
        app.query(name)(watch.answering(name.removeprefix("secure_"), sites.names, work))
    timed = sites.run(InProcessGrid(app, [{}] * clients), watch)
    return round_figures(timed, watch, clients) | disk_figures(timed, sites)


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
    Curve(
        "round-secure", "secure_round", secure_round, "clients",
        {"tiny": (3, 4, 5), "quick": (10, 40, 100, 250), "full": (10, 40, 100, 300, 1000)},
        {"tiny": {"rounds": 1}, "quick": {"rounds": 2}, "full": {"rounds": 2}},
    ),
)  # fmt: skip
