"""One point of a scaling curve, in a process of its own: `python benchmarks/scaling_points.py KIND '{"name": value}'`.

A point prints one JSON object of figures; `values` lists, where there is one, hold each repeat's figure. One thread,
seed 0. Sites of a round are THIN: they answer with an update that was made beforehand and train nothing, so that what
is measured is the protocol. Data are random numbers or the embedded synthetic cohort.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sides import ROOT, SHARED, seconds_of

from permmoe.config import EncoderConfig, ModelConfig, PrivacyConfig, TrainConfig, VolumeGrid, read_config
from permmoe.data.dataset import MemoryRows, VisitData
from permmoe.data.visits import Visit, VisitTable
from permmoe.federated.federation_config import FederationConfig
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import Modality
from permmoe.training.trainer import make_model, make_optimiser, train_epochs

if TYPE_CHECKING:
    from flwr.app import Message

    from permmoe.federated.plan import RoundPlan
    from permmoe.federated.records import TrainReply
    from permmoe_server.protocol.rounds import RoundRecord
    from permmoe_simulation.studies.study import StudyConfig

Figures = dict[str, Any]

STUDY = ROOT / "configs" / "studies" / "default.yaml"
"""Its model and its training are those of every point that does not say otherwise."""
HOURS, HASTE_SECONDS = 3600.0, 4.0


def step(kind: str, batch: int, edge: int, modalities: int) -> Figures:
    """A training step from rows in memory to changed weights; every visit has every modality, edge³ voxels each."""
    before = resident_mb()
    config = ModelConfig(
        modalities=tuple(Modality(name=f"volume{i}") for i in range(modalities)),
        grid=VolumeGrid(shape=(edge, edge, edge)),
        encoder=EncoderConfig.model_validate({"kind": kind}),
    )
    data, model = rows_in_memory(config, batch), make_model(config, 0)
    train = TrainConfig(batch_size=batch, modality_dropout=0.0)
    optimiser = make_optimiser(model, train)
    forget_peak()
    seconds = seconds_of(
        lambda: train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser), 3, 0.7
    )
    return {"seconds": seconds, "memory_mb": peak_mb() - before}


def private_step(batch: int) -> Figures:
    """A step with differential privacy of a patient against a plain one of as many visits, default study."""
    from permmoe.training.private_trainer import train_privately

    study = default_study()
    data, model = rows_in_memory(study.model, batch), make_model(study.model, 0)
    train = study.train.model_copy(update={"batch_size": batch})
    optimiser = make_optimiser(model, train)

    def plain() -> None:
        train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    def private() -> None:
        privacy = PrivacyConfig(noise_multiplier=1.0)
        train_privately(model, data, train, privacy, noise_multiplier=1.0, sample_rate=1.0, steps=1, seed=0)

    before = resident_mb()
    seconds = {}
    for name, way in (("plain", plain), ("private", private)):
        forget_peak()
        seconds[f"{name}_seconds"] = seconds_of(way, 5, 0.7)
        seconds[f"{name}_memory_mb"] = peak_mb() - before
    return seconds | {"ratio": seconds["private_seconds"] / seconds["plain_seconds"]}


def epoch(patients: int) -> Figures:
    """One pass over so many patients' visits in one process, default study: its model, its batch, all modalities."""
    study = default_study()
    before = resident_mb()
    data, model = rows_in_memory(study.model, patients), make_model(study.model, 0)
    optimiser = make_optimiser(model, study.train)
    forget_peak()

    def once() -> None:
        train_epochs(model, data, study.train, first_epoch=9, epochs=1, seed=0, optimiser=optimiser)

    rows = sum(rows.rows.nbytes for rows in data.inputs.values() if isinstance(rows, MemoryRows))
    return {"seconds": seconds_of(once, 2, 0.5), "memory_mb": peak_mb() - before, "rows_mb": rows / 1e6}


def plain_round(clients: int, rounds: int) -> Figures:
    """Rounds of plain averaging over thin sites, on the in-process grid: server's and sites' seconds apart."""
    from permmoe.federated.records import read_instruction, write_head, write_train_reply
    from permmoe_simulation.engines.grid import InProcessGrid

    sites = Sites.of(clients, secure=False, rounds=rounds)
    watch = Watch()
    app = client_app()

    def train(message: Message, name: str) -> Any:
        asked = read_instruction(message.content)
        reply = replace(sites.ready, site=name, round=asked.round, model_digest=asked.model_digest)
        content = write_train_reply(reply, asked.up_wire)
        write_head(content, replace(sites.head, site=name))
        return content

    app.train()(watch.answering("train", sites.names, train))
    before = resident_mb()
    forget_peak()
    grid = InProcessGrid(app, [{}] * clients)
    records = sites.run(grid, watch, lambda: None)
    return round_figures(records, watch, clients) | {"server_memory_mb": peak_mb() - before, **disk(records, sites)}


def secure_round(clients: int, rounds: int) -> Figures:
    """The same with the secure sum: every site does its own cryptography, all in this process, one after another."""
    from flwr.app import RecordDict

    from permmoe.federated.records import read_instruction
    from permmoe.federated.roster import read_roster, site_keys
    from permmoe.federated.secure import messages as records_of
    from permmoe.federated.secure.blocks import training_blocks, training_numbers
    from permmoe.federated.secure.secure_sum import Rules, Session, SiteSum
    from permmoe_server.protocol.secure_rounds import COUNT, MASK, OPEN, SHARE
    from permmoe_simulation.engines.grid import InProcessGrid

    sites = Sites.of(clients, secure=True, rounds=rounds)
    blocks, numbers = training_blocks(sites.layout), training_numbers(sites.ready)
    watch, opened, app = Watch(), dict[str, SiteSum](), client_app()
    rules = Rules(sites.plan.federation.secure_threshold)

    def advertise(message: Message, name: str) -> RecordDict:
        asked, opening = read_instruction(message.content), records_of.read_opening(message.content)
        roster = site_keys(read_roster(opening.roster, sites.authority.public_key()))
        session = Session(asked.plan.digest(), "training", asked.round, asked.model_digest, opening.nonce)
        opened[name] = SiteSum(session, name, sites.keys[name], roster, rules, blocks)
        return records_of.write_advertisement(opened[name].advertise())

    def share(message: Message, name: str) -> RecordDict:
        cohort, t = records_of.read_cohort(message.content), records_of.read_threshold(message.content)
        return RecordDict({"sealed": records_of.write_bytes(opened[name].share(cohort, t))})

    def mask(message: Message, name: str) -> RecordDict:
        masked = opened[name].mask(records_of.read_bytes(message.content, "sealed"), numbers)
        return records_of.write_masked(masked, replace(sites.head, site=name))

    def count(message: Message, name: str) -> RecordDict:
        return records_of.write_count_shares(opened[name].count(records_of.read_names(message.content, "arrived")))

    def open_blocks(message: Message, name: str) -> RecordDict:
        evidence = records_of.read_evidence(message.content, len(blocks))
        return records_of.write_masks(opened[name].open(evidence, records_of.read_names(message.content, "silent")))

    app.train()(watch.answering("advertise", sites.names, advertise))
    for stage, work in ((SHARE, share), (MASK, mask), (COUNT, count), (OPEN, open_blocks)):
        name = stage.removeprefix("query.")
        app.query(name)(watch.answering(name.removeprefix("secure_"), sites.names, work))
    records = sites.run(InProcessGrid(app, [{}] * clients), watch, sites.signed_roster)
    return round_figures(records, watch, clients) | disk(records, sites)


def superlink_round(clients: int, rounds: int) -> Figures:
    """Rounds over a real coordinator: gateway, SuperLink with its SQLite and executor, over TLS on this machine.

    Thin sites are threads of this process, with the node's own connection and its pace of asking; they share the
    machine's cores with the server. After the last round all of them ask for messages without a pause: how many
    questions a second are answered.
    """
    import yaml

    from permmoe.federated.records import read_instruction, write_train_reply
    from permmoe_client.connection.fleet import Refused, Unreachable, connect
    from permmoe_client.connection.identity import client_context, load_key
    from permmoe_client.connection.node import poll_seconds
    from permmoe_client.site import read_site
    from permmoe_simulation.engines.deployment import deploy, ended

    sites = Sites.of(clients, secure=False, rounds=rounds)
    stop, is_hasty = threading.Event(), threading.Event()
    asked_in_haste: list[None] = []

    def serve(name: str, path: Path) -> None:
        coordinator = read_site(path).coordinator
        assert coordinator
        tls, key = client_context(coordinator), load_key(coordinator.key)
        while not stop.is_set():
            with (
                contextlib.suppress(Unreachable, Refused),
                connect(coordinator.host, coordinator.port, tls, key, stop) as fleet,
            ):
                waiting_since = time.monotonic()
                while not stop.is_set():
                    message = fleet.receive()
                    if is_hasty.is_set():
                        asked_in_haste.append(None)
                    elif message is None:
                        stop.wait(poll_seconds(time.monotonic() - waiting_since))
                    if message is None:
                        continue
                    fleet.send(answer(message, name), 0.0)
                    waiting_since = time.monotonic()
            stop.wait(1.0)

    def answer(message: Message, name: str) -> Message:
        from flwr.app import Message as Answer

        asked = read_instruction(message.content)
        reply = replace(sites.ready, site=name, round=asked.round, model_digest=asked.model_digest)
        return Answer(write_train_reply(reply, asked.up_wire), reply_to=message)

    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(yaml.safe_dump(sites.plan.model_dump(mode="json")))
        # All sites have one address here.
        limits = {"connections": 4096, "connections_per_address": 4096}
        own = {name: {"manifest": "manifest.csv"} for name in sites.names.values()}
        deployment = deploy(Path(folder), "Scaling", own, {"limits": limits})
        server = deployment.start_server("--study", str(study), "--stay")
        threads = [threading.Thread(target=serve, args=item, daemon=True) for item in deployment.sites.items()]
        with ended([server]):
            try:
                for thread in threads:
                    thread.start()
                deployment.wait_for(lambda s: s.rounds_done >= 1, "the first round", HOURS)
                begun = {pid: processor_seconds(pid) for _, pid in programs(server.pid)}
                deployment.wait_for(lambda s: s.rounds_done >= rounds - 1, "all rounds but the last", HOURS)
                memory, busy = defaultdict[str, float](float), defaultdict[str, float](float)
                for program, pid in programs(server.pid):
                    memory[program] += peak_mb(pid)
                    busy[program] += processor_seconds(pid) - begun.get(pid, 0.0)
                deployment.wait_for(lambda s: s.phase == "finished", "the end", HOURS)
                database = sum(file.stat().st_size for file in deployment.folder.state.glob("superlink.db*"))
                [log] = deployment.folder.studies.glob("*/rounds.jsonl")
                records = [json.loads(line) for line in log.read_text().splitlines()]
                log_bytes = log.stat().st_size / len(records)
                is_hasty.set()
                time.sleep(HASTE_SECONDS)
                asked = len(asked_in_haste) / HASTE_SECONDS
            finally:
                stop.set()
                for thread in threads:
                    thread.join(5.0)
    values = [record["seconds"] for record in records[1:]]
    answered = [site for record in records for site in record["sites"] if site["rejected"] is None]
    assert len(answered) == clients * len(records), "a thin site was left out of a round"
    return {
        "round_seconds": statistics.median(values),
        "values": values,
        "server_memory_mb": sum(memory.values()),
        "memory_by_program_mb": memory,
        "processor_seconds_by_program": busy,
        "database_mb": database / 1e6,
        "questions_a_second": asked,
        "log_bytes": log_bytes,
        "bytes_down": answered[0]["bytes_down"],
        "bytes_up": answered[0]["bytes_up"],
    }


def study(workers: int, cells: int, subjects: int, rounds: int) -> Figures:
    """Cells a minute of the default study's federated method, its cohort written beforehand."""
    from permmoe_simulation.studies.simulate import run_study
    from permmoe_simulation.studies.sources import Progress, prepare_data
    from permmoe_simulation.studies.study import StudyConfig, data_source

    whole = default_study()
    method = "federated-permmoe"
    small = whole.model_dump() | {
        "methods": {method: whole.methods[method].model_dump()}, "comparisons": (), "claims": (), "gap": None,
        "profiles": {}, "seeds": tuple(range(cells)), "bootstrap_resamples": 100,
    }  # fmt: skip
    small["data"]["synthetic"]["subjects"] = subjects
    small["federation"]["rounds"] = rounds
    config = StudyConfig.model_validate(small)
    quiet = Progress(lambda stage, steps: None, lambda step: None, lambda note: None)
    [regime] = config.regimes
    prepare_data(data_source(config, regime), config.model, SHARED, os.cpu_count() or 1, quiet)
    begun: dict[str, float] = {}
    seen: list[float] = []

    def stage(name: str, steps: int) -> None:
        begun[name] = time.perf_counter()

    def done(step: str) -> None:
        if "cells" in begun and "report" not in begun:
            seen.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run_study(
            config, Path(folder), engine="inprocess", workers=workers, command="benchmarks/scaling.py",
            progress=Progress(stage, done, lambda note: None), shared=SHARED,
        )  # fmt: skip
    assert len(seen) == cells
    seconds = seen[-1] - begun["cells"]
    return {"cells_a_minute": 60 * cells / seconds, "seconds": seconds}


def ray_overhead(clients: int) -> Figures:
    """What a client's round costs on Ray beside its training, on this machine (benchmarks/federation.py)."""
    import federation

    assert clients == federation.CLIENTS
    found = federation.overhead_milliseconds("ray")
    return {"client_seconds": found["steady"] / 1e3, "whole_client_seconds": found["whole"] / 1e3}


def constants() -> Figures:
    """What a projection needs beside the curves: defaults of this version, and what the installed Flower accepts."""
    from flwr.supercore.constant import SQL_ALLOWED_DIALECTS

    from permmoe.federated.roster import MAX_ROSTER_BYTES
    from permmoe_client.connection.node import LONGEST_POLL_SECONDS, SHORTEST_POLL_SECONDS
    from permmoe_server.settings import GatewayLimits

    study, limits = default_study(), GatewayLimits()
    return {
        "rounds": study.federation.rounds,
        "local_epochs": study.federation.local_epochs,
        "epochs": study.train.epochs,
        "batch_size": study.train.batch_size,
        "stage_deadline_seconds": FederationConfig().stage_deadline_seconds,
        "shortest_poll_seconds": SHORTEST_POLL_SECONDS,
        "longest_poll_seconds": LONGEST_POLL_SECONDS,
        "gateway_connections": limits.connections,
        "gateway_upstream_connections": limits.upstream_connections,
        "most_roster_bytes": MAX_ROSTER_BYTES,
        "superlink_databases": sorted(SQL_ALLOWED_DIALECTS),
    }


def default_study() -> StudyConfig:
    """The default study."""
    from permmoe_simulation.studies.study import StudyConfig

    return read_config(STUDY, StudyConfig)


def rows_in_memory(config: ModelConfig, visits: int) -> VisitData:
    """Random rows as a run keeps them, behind the fixed stem; every visit has every modality."""
    torch.manual_seed(0)
    like = fixed_stem(config)(torch.zeros(1, 1, *config.grid.shape).half())
    inputs = {name: MemoryRows(torch.randn(visits, *like.shape[1:]).to(like.dtype)) for name in config.names}
    rows = torch.arange(visits)[:, None].expand(-1, len(config.names)).contiguous()
    table = VisitTable(tuple(Visit(f"s{i}", "011", "bl", 1.5, 1.0, 24.0) for i in range(visits)))
    observed = torch.ones(visits, len(config.names), dtype=torch.bool)
    return VisitData(table, config.names, observed, torch.rand(visits), torch.randn(visits), rows, inputs)


@dataclass
class Watch:
    """Seconds that thin sites take, by stage; a round's clients answer one after another."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def answering(
        self, stage: str, names: Mapping[int, str], work: Callable[[Message, str], Any]
    ) -> Callable[[Message, Any], Message]:
        """A handler of a client app that answers with what `work` makes for the site, and is timed."""
        from flwr.app import Message

        def handle(message: Message, context: Any) -> Message:
            started = time.perf_counter()
            answer = Message(work(message, names[context.node_id]), reply_to=message)
            self.seconds[stage].append(time.perf_counter() - started)
            return answer

        return handle

    def total(self) -> float:
        """Seconds of all sites so far."""
        return sum(sum(found) for found in self.seconds.values())


@dataclass(frozen=True)
class Sites:
    """A federation of thin sites: its plan, and what each of them will answer."""

    plan: RoundPlan
    layout: Any
    weights: Mapping[str, torch.Tensor]
    names: Mapping[int, str]
    """By node."""
    ready: TrainReply
    """An update of every module."""
    head: Any
    authority: Any
    keys: Mapping[str, Any]
    """For the secure sum alone."""

    @classmethod
    def of(cls, clients: int, *, secure: bool, rounds: int) -> Sites:
        """So many sites of the default study's model."""
        from cryptography.hazmat.primitives.asymmetric import ec

        from permmoe.federated.audit import Head
        from permmoe.federated.modules import ModuleLayout
        from permmoe.federated.plan import RoundPlan
        from permmoe.federated.records import TrainReply
        from permmoe.federated.training_figures import TrainingFigures
        from permmoe.federated.update import ModuleUpdate
        from permmoe_simulation.engines.grid import FIRST_NODE

        study = default_study()
        federation = FederationConfig(
            rounds=rounds, evaluate_every=0, centring_round=False, min_sites=clients, secure=secure,
            round_deadline_seconds=HOURS, stage_deadline_seconds=HOURS,
        )  # fmt: skip
        plan = RoundPlan(model=study.model, train=study.train, federation=federation)
        model = make_model(plan.model, 0)
        layout = ModuleLayout.of(model)
        generator = torch.Generator().manual_seed(0)
        updates = {
            module: ModuleUpdate(1e-3 * torch.randn(layout.size(module), generator=generator), 20.0)
            for module in layout.modules
        }
        head = Head("", 1, "0" * 64)
        names = {FIRST_NODE + i: f"site-{i:04d}" for i in range(clients)}
        key = ec.generate_private_key(ec.SECP384R1())
        keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in names.values()} if secure else {}
        ready = TrainReply("", 0, "", updates, TrainingFigures(20.0, 20.0))
        return cls(plan, layout, layout.flatten_all(model.state_dict()), names, ready, head, key, keys)

    def signed_roster(self) -> Any:
        """The roster as the server holds it."""
        from cryptography.hazmat.primitives import serialization

        from permmoe.federated.roster import Roster, RosterSite, sign_roster, site_keys
        from permmoe_server.protocol.secure_rounds import SignedRoster

        texts = {
            name: key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            for name, key in self.keys.items()
        }
        entries = tuple(RosterSite(name=name, public_key=text.decode()) for name, text in texts.items())
        roster = Roster(federation="Scaling", serial=1, sites=entries)
        return SignedRoster(sign_roster(roster, self.authority), site_keys(roster))

    def run(self, grid: Any, watch: Watch, roster_of: Callable[[], Any]) -> list[tuple[RoundRecord, float]]:
        """Records of all rounds, each with the seconds that sites took of it. None may lose a site."""
        from permmoe_server.protocol.rounds import FederationState, run_rounds

        state, found, before = FederationState(0, self.weights), [], 0.0
        roster = roster_of()
        for _, record in run_rounds(
            grid, self.plan, self.layout, state, site_of=lambda: self.names, roster_of=lambda: roster
        ):
            assert record.is_aggregated and all(site.rejected is None for site in record.sites)
            found.append((record, watch.total() - before))
            before = watch.total()
        return found


def round_figures(records: list[tuple[RoundRecord, float]], watch: Watch, clients: int) -> Figures:
    """Per round. The first one is left out where there are others: it imports and allocates."""
    kept = records[1:] or records
    own = [record.seconds - theirs for record, theirs in kept]
    # Sites work at the same time in the field: a stage is as long as one of them, the median.
    stages = {stage: statistics.median(found) for stage, found in watch.seconds.items()}
    figures: Figures = {
        "server_seconds": statistics.median(own),
        "values": own,
        "site_seconds": sum(stages.values()),
        "stage_seconds": stages,
        "in_one_process_seconds": statistics.median(record.seconds for record, _ in kept),
    }
    for direction in ("bytes_down", "bytes_up"):
        figures[direction] = statistics.median(getattr(site, direction) for site in kept[-1][0].sites)
    return figures | {"bytes": clients * (figures["bytes_down"] + figures["bytes_up"])}


def disk(records: list[tuple[RoundRecord, float]], sites: Sites) -> Figures:
    """A line of the round log, the checkpoint beside it, and an entry of one site's ledger, bytes."""
    from permmoe.federated.records import Instruction
    from permmoe_client.release.ledger import Ledger
    from permmoe_client.release.outbox import training_facts
    from permmoe_server.app import record_json

    asked = Instruction(sites.plan, 1, "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), "site", sites.authority)
        ledger.append("training", {**training_facts(sites.ready, asked), "bytes": 1})
        entry = ledger.path.stat().st_size
    log = len(record_json(records[-1][0])) + 1
    return {"log_bytes": log, "ledger_entry_bytes": entry, "model_bytes": 4 * sum(map(len, sites.weights.values()))}


def client_app() -> Any:
    """A Flower client app without handlers."""
    from flwr.clientapp import ClientApp

    return ClientApp()


def programs(process: int) -> Iterator[tuple[str, int]]:
    """The coordinator and the programs that it started: what each is, and its process."""
    waiting = [("coordinator", process)]
    while waiting:
        name, found = waiting.pop()
        yield name, found
        children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
        waiting += [(_program(int(child)), int(child)) for child in children]


def _program(process: int) -> str:
    arguments = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    return next((name for name in ("superlink", "gateway") if any(name in a for a in arguments[:3])), "executor")


def processor_seconds(process: int) -> float:
    """Time that a process has had on a processor."""
    from deployment import _cpu_seconds

    return _cpu_seconds(process)


def resident_mb() -> float:
    """Memory that this process holds now, MB."""
    return _status("VmRSS", None)


def peak_mb(process: int | None = None) -> float:
    """The most that a process has held since it began, or since `forget_peak`, MB."""
    return _status("VmHWM", process)


def forget_peak() -> None:
    """Let the peak begin anew. getrusage cannot: it also inherits the peak of the process that started this one."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str, process: int | None) -> float:
    lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kilobytes) / 1024


POINTS: Mapping[str, Callable[..., Figures]] = {
    "step": step,
    "private_step": private_step,
    "epoch": epoch,
    "plain_round": plain_round,
    "secure_round": secure_round,
    "superlink_round": superlink_round,
    "study": study,
    "ray_overhead": ray_overhead,
    "constants": constants,
}


@contextmanager
def _answer_alone() -> Iterator[None]:
    """Flower logs to standard output, where the answer goes."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


if __name__ == "__main__":
    torch.set_num_threads(1)
    with _answer_alone():
        figures = POINTS[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(figures))
