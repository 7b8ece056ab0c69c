"""The coordinator's app: what it leaves on disk, and going on after being killed."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.superlink.grid.http_grid import HttpGrid

import permmoe_server.app as server_module
from permmoe.errors import ConfigurationError
from permmoe.federated.modules import ModuleLayout
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_server.app import app as server_app
from permmoe_server.coordination.joined_grid import JoinedGrid
from permmoe_server.coordination.nonblocking_grid import NonblockingGrid
from permmoe_server.protocol.federation import RoundObserver
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.regions import add_region
from permmoe_server.studies import study_run
from permmoe_simulation.engines.grid import InProcessGrid, run_in_process
from tests.support.tiny_federation import MODEL, node_configs, tiny_plan


def start(folder: Path, **federation: object) -> None:
    settings = {
        "rounds": 3,
        "server_optimiser": "fedadam",
        "server_learning_rate": 0.1,
        "averaging_decay": 0.5,
    } | federation
    (folder / "plan.json").write_text(tiny_plan(**settings).canonical_json())
    run_in_process(server_app, client_app, node_configs(folder), run_config(folder))


def run_config(folder: Path) -> dict[str, str]:
    return {"plan": str(folder / "plan.json"), "out": str(folder / "out")}


def rounds(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    start(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / "out" / "model")[0])


def test_a_study_leaves_a_model_and_a_record_of_every_round(undisturbed: Path) -> None:
    PerMMoE(MODEL).load_state_dict(weights(undisturbed))
    records = rounds(undisturbed)
    assert [r["round"] for r in records] == [1, 2, 3]
    assert [s["site"] for s in records[0]["sites"]] == ["north", "south", "west"]
    assert records[2]["test"]["sums"]["clinical"]["n"] > 0 and records[0]["test"] is None
    _, card = load_checkpoint(undisturbed / "out" / "model")
    assert card["round"] == 3 and card["plan"]["model"] == card["model"] == MODEL.model_dump(mode="json")


def test_a_coordinator_without_a_key_announces_no_model_and_gives_no_receipt(undisturbed: Path) -> None:
    assert {path.name for path in (undisturbed / "out").iterdir()} == {"last", "model", "rounds.jsonl", ".lock"}


def test_the_kept_model_is_the_running_mean_and_the_next_round_starts_from_the_newest(undisturbed: Path) -> None:
    last = load_checkpoint(undisturbed / "out" / "last")[0]
    kept = ModuleLayout.of(PerMMoE(MODEL)).flatten_all(weights(undisturbed))
    assert all(torch.equal(last[f"average:{module}"], kept[module]) for module in kept)
    newest = {name.removeprefix("weights:"): tensor for name, tensor in last.items() if name.startswith("weights:")}
    assert any(not torch.equal(newest[name], tensor) for name, tensor in weights(undisturbed).items())


@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("last", 3)])
def test_a_study_keeps_the_round_that_it_says_it_keeps(
    keep: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(study_run, "mean_squared_error", lambda sums: next(errors))
    plan = tiny_plan(rounds=3)
    plan = plan.model_copy(update={"train": plan.train.model_copy(update={"keep": keep})})
    (tmp_path / "plan.json").write_text(plan.canonical_json())
    run_in_process(server_app, client_app, node_configs(tmp_path), run_config(tmp_path))
    assert load_checkpoint(tmp_path / "out" / "model")[1]["round"] == kept


def test_an_observer_is_called_through_the_app_as_rounds_go_on(tmp_path: Path) -> None:
    started, ended = list[int](), list[tuple[int, bool]]()
    observer = RoundObserver(started.append, lambda state, record: ended.append((state.round, record.is_aggregated)))
    (tmp_path / "plan.json").write_text(tiny_plan(rounds=2, evaluate_every=0).canonical_json())
    run_in_process(server_module.make_app(observer), client_app, node_configs(tmp_path), run_config(tmp_path))
    assert started == [1, 2] and ended == [(1, True), (2, True)]


class PowerCutError(Exception):
    """The machine went dark."""


@pytest.mark.parametrize("replies_before", [1, 3, 7, 10])
def test_a_study_killed_anywhere_ends_with_the_same_weights(
    replies_before: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull, pulled = InProcessGrid.pull_messages, []

    def failing(grid: InProcessGrid, message_ids: Iterable[str]) -> Iterable[Message]:
        if len(pulled) == replies_before:
            raise PowerCutError
        pulled.append(1)
        return pull(grid, message_ids)

    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(InProcessGrid, "pull_messages", failing)
        start(tmp_path)
    with (tmp_path / "out" / "rounds.jsonl").open("a") as file:
        file.write('{"round": 99, "sit')
    start(tmp_path)
    resumed, whole = weights(tmp_path), weights(undisturbed)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [r["round"] for r in rounds(tmp_path)] == [1, 2, 3]


def test_a_finished_study_may_be_given_more_rounds(tmp_path: Path, undisturbed: Path) -> None:
    start(tmp_path, rounds=2)
    start(tmp_path, rounds=3)
    longer, whole = weights(tmp_path), weights(undisturbed)
    assert all(torch.equal(longer[name], whole[name]) for name in whole)


def test_a_folder_begun_with_another_plan_is_refused(tmp_path: Path) -> None:
    start(tmp_path, rounds=1)
    with pytest.raises(ConfigurationError, match="another plan"):
        start(tmp_path, rounds=1, local_epochs=1)


def test_a_plan_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    for text in (None, "{", '{"modle": {}}'):
        if text is not None:
            (tmp_path / "plan.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"plan\.json"):
            run_in_process(server_app, client_app, [], run_config(tmp_path))
    with pytest.raises(ConfigurationError, match="lacks 'plan'"):
        run_in_process(server_app, client_app, [], {})


STAGES: dict[str, tuple[str, int]] = {
    "before a round": ("permmoe_server.protocol.federation.Federation.wait_for_sites", 2),
    "while sites train": ("permmoe_simulation.engines.grid.InProcessGrid.push_messages", 5),
    "while replies arrive": ("permmoe_server.protocol.plain_round.accept_training", 5),
    "while aggregating": ("permmoe_server.protocol.rounds.server_step", 17),
    "while sites evaluate": ("permmoe_server.protocol.plain_round.accept_evaluation", 5),
    "before the record": ("permmoe_server.studies.study_run.record_json", 2),
    "between record and checkpoint": ("permmoe_server.studies.study_run.mean_squared_error", 2),
    "while writing a checkpoint": ("permmoe.runtime.checkpoint._write", 7),
    "while replacing the model": ("permmoe.runtime.checkpoint._exchange", 3),
    "while replacing the checkpoint": ("permmoe.runtime.checkpoint._exchange", 4),
    "between two renames": ("pathlib.Path.rename", 6),
}


def run_and_die(folder: Path, function: str, call: int, patch: pytest.MonkeyPatch) -> int:
    """Run the study in a child process that is killed with SIGKILL at a call of a function; its status."""
    child = os.fork()
    if child == 0:
        calls = []
        try:
            owner, _, name = function.rpartition(".")
            original = getattr(pkgutil.resolve_name(owner), name)

            def deadly(*args: object, **kwargs: object) -> object:
                calls.append(1)
                if len(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            patch.setattr(function, deadly)
            start(folder)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_study_killed_with_sigkill_at_any_stage_of_a_round_ends_with_the_same_weights(
    stage: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = run_and_die(tmp_path, *STAGES[stage], monkeypatch)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    done_before = rounds(tmp_path) if (tmp_path / "out" / "rounds.jsonl").exists() else []
    assert len(done_before) < 3
    start(tmp_path)
    for part in ("last", "model"):
        resumed, whole = (load_checkpoint(folder / "out" / part)[0] for folder in (tmp_path, undisturbed))
        assert resumed.keys() == whole.keys() and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [r["round"] for r in rounds(tmp_path)] == [1, 2, 3]


def test_a_full_disk_at_a_checkpoint_ends_the_run_and_loses_nothing(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from permmoe.runtime import checkpoint

    write, written = checkpoint._write, []

    def full(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 7:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "_write", full)
        start(tmp_path)
    assert load_checkpoint(tmp_path / "out" / "last")[1]["round"] == 1
    start(tmp_path)
    resumed, whole = weights(tmp_path), weights(undisturbed)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_flowers_connection_to_a_superlink_is_used_without_waiting_for_anybody_and_only_with_a_roster(
    tmp_path: Path,
) -> None:
    folder = FederationFolder(tmp_path / "federation")
    administration.init(folder, "Tiny", "127.0.0.1", 8443)
    named = {"sites": str(folder.sites), "roster": str(folder.roster), "authority": str(folder.authority)}
    grid = object.__new__(HttpGrid)
    with server_module._untrusting(grid, tiny_plan(), None, Context(1, 1, {}, RecordDict(), named)) as used:
        assert isinstance(used, NonblockingGrid)
    with_regions = {**named, "regions": str(folder.regions)}
    joined = server_module._untrusting(grid, tiny_plan(), None, Context(1, 1, {}, RecordDict(), with_regions))
    assert isinstance(joined, JoinedGrid) and joined._regions() == {}
    add_region(folder, "west", "west.example.org")
    assert joined._regions().keys() == {"west"}
    for absent in named:
        lacking = {key: value for key, value in named.items() if key != absent}
        with pytest.raises(ConfigurationError, match=absent):
            server_module._untrusting(grid, tiny_plan(), None, Context(1, 1, {}, RecordDict(), lacking))
