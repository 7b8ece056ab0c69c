"""Clients on a real Ray: on this machine, and on a cluster of two nodes, each with processes of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from permmoe.errors import ConfigurationError
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_simulation.engines import ray_cluster as cluster_module
from permmoe_simulation.engines.engine import Engine, ray_workers, run_federation
from permmoe_simulation.engines.grid import InProcessGrid
from permmoe_simulation.engines.ray_cluster import ADDRESS, SETTINGS, VISIBLE, complaint_of, ray_cluster
from tests.support.patience import PATIENCE_SECONDS, wait_until
from tests.support.pretended_gpu import pretend_gpus
from tests.support.tiny_federation import node_configs, tiny_plan
from tests.support.tiny_study import METHODS, run, write_settings

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is an optional extra", allow_module_level=True)

import ray
import ray._private.services as ray_services
from ray.cluster_utils import Cluster

from permmoe_simulation.engines.ray_workers import ATTEMPTS, WorkerLost, gpu_share

pytestmark = pytest.mark.xdist_group("ray")
TABLES = ("results.csv", "comparisons.csv", "learning.csv", "activation.csv", "routing.csv", "sites.csv")
StartCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartCluster]:
    """Starts a cluster whose head takes `head` clients at a time, and names it as RAY_ADDRESS until the test ends."""
    started: list[Cluster] = []
    found = ray_services.get_node

    def found_in_the_end(*where: Any) -> Any:
        """Ray asks for half a minute whether its node is there; a busy machine can need more."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return found(*where)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    monkeypatch.setattr(ray_services, "get_node", found_in_the_end)

    def start(head: int = 1) -> Cluster:
        # Workers find this folder's modules as those of a node with the same file system do.
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        for name, value in SETTINGS.items():
            monkeypatch.setenv(name, value)
        started.append(Cluster(initialize_head=True, head_node_args={"num_cpus": head, "num_gpus": 0}))
        monkeypatch.setenv(ADDRESS, started[-1].address)
        return started[-1]

    yield start
    ray.shutdown()
    for cluster in started:
        cluster.shutdown()


asked = ClientApp()


@asked.train()
def _asked(message: Message, context: Context) -> Message:
    """Say which node of the cluster answers, and what it shows of GPUs; first do what the node's settings say."""
    settings = context.node_config
    tried = Path(str(settings["tried"]))
    attempts = int(tried.read_text()) if tried.exists() else 0
    tried.write_text(str(attempts + 1))
    if attempts < int(settings.get("dies", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if "waits-for" in settings:
        wait_until("the other client begins", Path(str(settings["waits-for"])).exists)
    if attempts < int(settings.get("hangs", 0)):
        time.sleep(PATIENCE_SECONDS)
    where = ray.get_runtime_context().get_node_id()
    answer = ConfigRecord({"node": where, "gpus": os.environ.get(VISIBLE, "")})
    return Message(RecordDict({"answer": answer}), reply_to=message)


class Mixed(ClientApp):
    """The app of hospitals, but for the training of nodes that have settings of this file's."""

    def __call__(self, message: Message, context: Context) -> Message:
        is_ours = message.metadata.message_type == MessageType.TRAIN and "tried" in context.node_config
        return (asked if is_ours else client_app)(message, context)


@contextmanager
def grid_of(*settings: dict[str, str], device: str = "cpu") -> Iterator[InProcessGrid]:
    grid = InProcessGrid(asked, settings, workers=ray_workers(device))
    try:
        yield grid
    finally:
        grid.close()


def questions(grid: InProcessGrid) -> list[Message]:
    content = RecordDict({"question": ConfigRecord({"q": 1})})
    return [Message(content, node, MessageType.TRAIN, group_id="1") for node in grid.get_node_ids()]


def answers(*settings: dict[str, str], device: str = "cpu") -> list[Any]:
    """What nodes of these settings answer, in their order."""
    with grid_of(*settings, device=device) as grid:
        replies = list(grid.send_and_receive(questions(grid)))
    return [reply.content["answer"] for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id)]


def federated(folder: Path, engine: Engine) -> dict[str, torch.Tensor]:
    folder.mkdir()
    (folder / "plan.json").write_text(tiny_plan(rounds=2).canonical_json())
    run_config = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    with ray_cluster(2) if engine == "ray" else nullcontext():
        run_federation(server_app, client_app, node_configs(folder), run_config, engine=engine)
    return dict(load_checkpoint(folder / "out" / "model")[0])


def test_ray_gives_the_same_weights_as_this_process_bit_by_bit(tmp_path: Path) -> None:
    here, there = federated(tmp_path / "here", "inprocess"), federated(tmp_path / "there", "ray")
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not ray.is_initialized() and ADDRESS not in os.environ


def test_two_whole_studies_at_once_on_a_cluster_of_two_nodes_have_the_tables_of_one_in_this_process(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    methods = {name: METHODS[name] for name in ("federated", "clinical-null")}
    study = write_settings(tmp_path / "tiny.yaml", seeds=[0], methods=methods, comparisons=[], claims=[])

    def tables(name: str, *options: str) -> dict[str, bytes]:
        ended = run(study, tmp_path / name, *options)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert not list((tmp_path / name).glob(".seen*"))
        return {table: (tmp_path / name / table).read_bytes() for table in TABLES}

    here = tables("here")
    start_cluster(head=1).add_node(num_cpus=1)
    with ThreadPoolExecutor(2) as studies:
        first, second = (studies.submit(tables, name, "--engine", "ray") for name in ("first", "second"))
    assert first.result() == second.result() == here


def test_both_nodes_of_a_cluster_answer(tmp_path: Path, start_cluster: StartCluster) -> None:
    start_cluster().add_node(num_cpus=1)
    # Neither answers before both have begun.
    first, second = tmp_path / "first", tmp_path / "second"
    found = answers({"tried": str(first), "waits-for": str(second)}, {"tried": str(second), "waits-for": str(first)})
    assert len({answer["node"] for answer in found}) == 2


def test_a_client_whose_process_dies_is_asked_again_and_counted_once(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    start_cluster()
    found = answers({"tried": str(tmp_path / "a"), "dies": str(ATTEMPTS - 1)}, {"tried": str(tmp_path / "b")})
    assert len(found) == 2
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == (str(ATTEMPTS), "1")


def test_a_federation_does_not_go_on_without_a_site_whose_process_dies(
    tmp_path: Path, start_cluster: StartCluster
) -> None:
    start_cluster()
    (tmp_path / "plan.json").write_text(tiny_plan(rounds=2).canonical_json())
    *others, last = node_configs(tmp_path)
    nodes = [*others, {**last, "tried": str(tmp_path / "a"), "dies": "99"}]
    run_config = {"plan": str(tmp_path / "plan.json"), "out": str(tmp_path / "out")}
    with pytest.raises(WorkerLost, match=r"lost the process of a client 3 times, at last by WorkerCrashedError"):
        run_federation(server_app, Mixed(), nodes, run_config, engine="ray")
    assert (tmp_path / "a").read_text() == str(ATTEMPTS)


def test_a_client_for_which_there_is_no_memory_is_ended_by_ray_and_named(
    tmp_path: Path, start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray ends processes once this share of the machine's memory is in use: here, always.
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "200")
    start_cluster()
    with pytest.raises(WorkerLost, match=r"lost the process of a client 3 times, at last by OutOfMemoryError"):
        answers({"tried": str(tmp_path / "a"), "hangs": "99"})


def test_a_client_whose_machine_goes_is_asked_again_on_another_one(tmp_path: Path, start_cluster: StartCluster) -> None:
    cluster = start_cluster(head=0)
    going = cluster.add_node(num_cpus=1)
    replies: list[Message] = []
    with grid_of({"tried": str(tmp_path / "a"), "hangs": "1"}) as grid:
        [identifier] = grid.push_messages(questions(grid))
        wait_until("the client begins", (tmp_path / "a").exists)
        staying = cluster.add_node(num_cpus=1)
        cluster.remove_node(going, allow_graceful=False)
        wait_until("the reply is there", lambda: bool(replies.extend(grid.pull_messages([identifier])) or replies))
    assert replies[0].content["answer"]["node"] == staying.node_id
    assert (tmp_path / "a").read_text() == "2"


def test_clients_that_need_a_gpu_go_where_one_is_and_are_shown_it(tmp_path: Path, start_cluster: StartCluster) -> None:
    cluster = start_cluster(head=2)
    with_gpu = cluster.add_node(num_cpus=1, num_gpus=1)
    found = answers({"tried": str(tmp_path / "a")}, {"tried": str(tmp_path / "b")}, device="cuda")
    assert {(answer["node"], answer["gpus"]) for answer in found} == {(with_gpu.node_id, "0")}


def test_what_a_federation_gives_up_ends_and_keeps_nobody_waiting(tmp_path: Path, start_cluster: StartCluster) -> None:
    start_cluster()
    with grid_of({"tried": str(tmp_path / "a"), "hangs": "99"}, {"tried": str(tmp_path / "b")}) as grid:
        grid.push_messages(questions(grid))
        wait_until("the client begins", (tmp_path / "a").exists)
    wait_until("its CPU is free", lambda: ray.available_resources().get("CPU") == 1.0)
    assert (tmp_path / "a").read_text() == "1" and not (tmp_path / "b").exists()


def test_a_cluster_without_a_gpu_is_no_room_for_clients_that_need_one(start_cluster: StartCluster) -> None:
    start_cluster()
    with pytest.raises(ConfigurationError, match="1 CPUs and 0 GPUs, which is no room for a client"):
        ray_workers("cuda")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "ray://127.0.0.1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, address)
    refused = rf"RAY_ADDRESS={address} cannot be used .* has to be the HOST:PORT that `ray start --head` shows"
    with pytest.raises(ConfigurationError, match=refused), ray_cluster(1):
        pass


def test_a_federation_on_ray_without_a_cluster_says_how_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(ConfigurationError, match="start one with `ray start --head` and set RAY_ADDRESS"):
        run_federation(server_app, client_app, [], {}, engine="ray")


def test_a_node_with_another_version_or_without_the_studys_folder_is_named() -> None:
    ours = {"permmoe": "1", "torch": "2"}
    assert complaint_of("node a", ours, ours, []) is None
    assert complaint_of("node a", ours | {"torch": "3"}, ours, []) == (
        "node a has torch 3, this machine 2; install the same there"
    )
    assert complaint_of("node a", {"torch": "2"}, ours, []) == (
        "node a has permmoe not at all, this machine 1; install the same there"
    )
    assert str(complaint_of("node a", ours, ours, ["/data/runs"])).startswith("node a does not see /data/runs;")


def test_a_node_that_does_not_see_what_this_machine_wrote_is_found_out_before_anything_begins(
    tmp_path: Path, start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_cluster()
    monkeypatch.setattr(cluster_module, "_mark", lambda folder: nullcontext(folder / "runs" / "mark"))
    unseen = f"of the Ray cluster does not see {tmp_path / 'runs'};"
    with pytest.raises(ConfigurationError, match=unseen), ray_cluster(1, folders=(tmp_path,)):
        pass


def test_ray_that_is_slow_to_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    def slow(**_: object) -> None:
        starts.append(len(starts))
        if len(starts) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster_module._start(1, 0)
    assert len(starts) == 3


def test_ray_that_cannot_start_for_another_reason_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ValueError("no such setting")

    monkeypatch.setattr(ray, "init", broken)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ValueError, match="no such setting"):
        cluster_module._start(1, 0)


@pytest.mark.parametrize(("processes", "gpus"), [(1, 1), (3, 1), (7, 2), (4, 8), (49, 1), (2, 2)])
def test_all_processes_find_room_on_the_gpus_and_none_is_given_more_than_one(processes: int, gpus: int) -> None:
    share = gpu_share(processes, gpus)
    clients_on_one = int(1 / share)
    assert 0 < share <= 1 and clients_on_one * gpus >= processes and clients_on_one * share <= 1


@pytest.mark.parametrize(("device", "gpus", "seen"), [("cpu", 0, None), ("cuda", 2, None), ("cuda:1", 1, "1")])
def test_a_ray_that_is_started_has_the_gpus_that_were_named(
    device: str, gpus: int, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.delenv(ADDRESS, raising=False)
    pretend_gpus(monkeypatch, count=2)
    monkeypatch.setattr(ray, "init", lambda **settings: given.update(settings, seen=os.environ.get(VISIBLE)))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Ray", (), {"gcs_address": "here:1"}))
    with ray_cluster(4, device) as address:
        assert address == os.environ[ADDRESS] == "here:1"
    assert (given["num_cpus"], given["num_gpus"], given["seen"]) == (4, gpus, seen)
    assert VISIBLE not in os.environ and ADDRESS not in os.environ


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[ray\]'"):
        run_federation(server_app, client_app, [], {}, engine="ray")
