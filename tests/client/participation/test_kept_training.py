"""A site that is killed in a round's training goes on from its last point, and trains nothing twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import RecordDict

from permmoe.federated.accounting import Spent
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, read_train_reply
from permmoe.runtime.checkpoint_card import CARD_FILE, TENSORS_FILE
from permmoe.training.point import TrainingPoint
from permmoe_client.app import SITES
from permmoe_client.participation.kept_training import KeptTraining
from permmoe_client.participation.privacy_account import spent_so_far
from permmoe_client.participation.running_site import RunningSites
from tests.support.announcing_coordinator import NEWER, AnnouncingCoordinator
from tests.support.site_messages import LAYOUT, ask, instruction
from tests.support.tiny_federation import tiny_plan, write_site

PRIVACY = {"noise_multiplier": 2.0, "patients_per_step": 5.0, "count_noise": 1.0}


class Killed(BaseException):
    """The end of a process in the middle of its work."""


class Kills:
    """Kills the process once it has kept so many points, and counts the points that are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after: int | None = None
        self.kept: list[tuple[int, int]] = []
        keep = KeptTraining.keep

        def counted(own: KeptTraining, point: TrainingPoint) -> None:
            keep(own, point)
            self.kept.append((point.epoch, point.step))
            if len(self.kept) == self.after:
                raise Killed

        monkeypatch.setattr(KeptTraining, "keep", counted)

    def kill(self, after: int, ask: Callable[[], object]) -> None:
        """Ask, let the process be killed behind so many steps, and start it again."""
        self.kept, self.after = [], after
        with pytest.raises(Killed):
            ask()
        self.kept, self.after = [], None
        SITES.forget()


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kills]:
    SITES.forget()
    yield Kills(monkeypatch)
    SITES.forget()


def site(folder: Path, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    return write_site(folder, "north", **{"state": "state", "checkpoint_seconds": 0, "threads": 1, **settings})


def asked(path: Path, content: RecordDict) -> TrainReply:
    reply = ask(path, content)
    assert reply.has_content(), reply.error
    return read_train_reply(reply.content, LAYOUT)


def is_same(a: TrainReply, b: TrainReply) -> bool:
    """Bit by bit, but for the times."""
    return (
        {name: update.support for name, update in a.updates.items()}
        == {name: update.support for name, update in b.updates.items()}
        and all(torch.equal(a.updates[name].weighted_delta, u.weighted_delta) for name, u in b.updates.items())
        and (a.figures.visits, a.figures.loss_sum) == (b.figures.visits, b.figures.loss_sum)
    )


def files(path: Path) -> list[Path]:
    return sorted(one for one in (path.parent / "state" / "training").rglob("*") if one.is_file())


@pytest.mark.parametrize(
    "settings", [{}, {"proximal_weight": 0.5}, {"private_modules": ["head"]}, {"drift_correction": True}]
)
def test_a_site_that_is_killed_behind_any_step_gives_the_reply_of_one_that_was_not(
    settings: dict[str, Any], kills: Kills, tmp_path: Path
) -> None:
    plan = tiny_plan(local_epochs=3, **settings)
    first, second = instruction(plan), instruction(plan, 2, NEWER)

    def after_round_1(name: str) -> Path:
        path = site(tmp_path / name)
        asked(path, first)
        kills.kept = []
        return path

    expected, steps = asked(after_round_1("undisturbed"), second), tuple(kills.kept)
    assert [epoch for epoch, _ in steps] == [3, 3, 4, 4, 5, 5]
    for after in range(1, len(steps) + 1):
        path = after_round_1(f"killed-{after}")
        kills.kill(after, lambda path=path: ask(path, second))  # type: ignore[misc]
        assert is_same(asked(path, second), expected), after
        assert tuple(kills.kept) == steps[after:], "what was trained before is not trained again"


def test_a_finished_training_is_answered_again_from_what_was_kept(kills: Kills, tmp_path: Path) -> None:
    path, content = site(tmp_path), instruction()
    first = ask(path, content)
    SITES.forget()
    kills.kept = []
    again = ask(path, content)
    assert kills.kept == []
    assert {name: dict(record) for name, record in again.content.items()} == {
        name: dict(record) for name, record in first.content.items()
    }


def test_what_is_kept_is_readable_by_its_owner_alone_and_goes_with_the_test(kills: Kills, tmp_path: Path) -> None:
    path, plan = site(tmp_path), tiny_plan(rounds=1)
    kills.kill(1, lambda: ask(path, instruction(plan)))
    folder = tmp_path / "state" / "training"
    assert folder.stat().st_mode & 0o077 == 0 and (folder / "newest").stat().st_mode & 0o077 == 0
    asked(path, instruction(plan))
    assert files(path)
    assert ask(path, instruction(plan, part="test"), "evaluate").has_content()
    assert not folder.exists()


def test_a_short_training_and_a_site_without_a_folder_write_nothing(kills: Kills, tmp_path: Path) -> None:
    short = site(tmp_path / "short", checkpoint_seconds=3600)
    nowhere = site(tmp_path / "nowhere", state=None)
    for path in (short, nowhere):
        asked(path, instruction())
    assert kills.kept == [] and not files(short) and not (tmp_path / "nowhere" / "state").exists()


def test_only_work_of_a_minute_is_kept(tmp_path: Path) -> None:
    times = iter([0.0, 59.9, 60.0, 61.0, 120.9, 121.0])
    kept = KeptTraining(tmp_path / "training" / "newest", 60.0, dict, clock=lambda: next(times))
    assert kept.begin({}) is None
    assert [kept.is_due(), kept.is_due()] == [False, True]
    kept.keep(TrainingPoint(3, 5, 0.25, 8, {"weights": {"a": torch.ones(3)}}))
    assert [kept.is_due(), kept.is_due()] == [False, True]


def truncated(folder: Path) -> None:
    file = folder / TENSORS_FILE
    file.write_bytes(file.read_bytes()[:-7])


def one_bit(folder: Path) -> None:
    file = folder / TENSORS_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def another_version(folder: Path) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    card["question"]["versions"]["torch"] = "0.1"
    (folder / CARD_FILE).write_text(json.dumps(card))


def no_card(folder: Path) -> None:
    (folder / CARD_FILE).write_text("{")


@pytest.mark.parametrize("damage", [truncated, one_bit, another_version, no_card])
def test_a_torn_or_foreign_point_is_removed_with_a_line_and_the_round_is_trained_anew(
    damage: Callable[[Path], None], kills: Kills, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, content = site(tmp_path / "a"), instruction()
    expected = asked(site(tmp_path / "b"), content)
    steps = len(kills.kept)
    kills.kill(2, lambda: ask(path, content))
    damage(path.parent / "state" / "training" / "newest")
    assert is_same(asked(path, content), expected)
    assert len(kills.kept) == steps and "it is removed" in caplog.text
    assert "north-" not in caplog.text and str(tmp_path) not in caplog.text


@pytest.mark.parametrize("other", [{"number": 3}, {"plan": tiny_plan(local_epochs=3)}, {"weights": NEWER}])
def test_a_point_of_another_question_is_removed(
    other: dict[str, Any], kills: Kills, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = site(tmp_path / "a")
    kills.kill(2, lambda: ask(path, instruction(number=2)))
    other = {"number": 2, **other}
    found, expected = asked(path, instruction(**other)), asked(site(tmp_path / "b"), instruction(**other))
    assert is_same(found, expected) and "of another question" in caplog.text


def test_a_kill_between_the_sites_memory_and_its_reply_mixes_no_old_point_with_the_new_memory(
    kills: Kills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, replies = tiny_plan(drift_correction=True), []
    for name, seconds in (("points", 0), ("none", 3600)):
        path = site(tmp_path / name, checkpoint_seconds=seconds)
        asked(path, instruction(plan))
        with monkeypatch.context() as killing, pytest.raises(Killed):
            killing.setattr(KeptTraining, "finish", killed)
            ask(path, instruction(plan, 2, NEWER))
        SITES.forget()
        replies.append(asked(path, instruction(plan, 2, NEWER)))
    assert is_same(*replies)


def killed(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("is_finished", [True, False])
def test_after_a_patient_was_withdrawn_nothing_that_was_kept_is_used(
    is_finished: bool, kills: Kills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = site(tmp_path / "a"), instruction()
    if is_finished:
        asked(path, content)
    else:
        kills.kill(2, lambda: ask(path, content))
    expected = site(tmp_path / "b")
    for one in (path, expected):
        table = one.parent / "north.csv"
        table.write_text("\n".join(table.read_text().splitlines()[:-4]) + "\n")
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites())
    assert is_same(asked(path, content), asked(expected, content))


def test_a_full_disk_stops_no_training(
    kills: Kills, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/data/secret")

    monkeypatch.setattr("permmoe_client.participation.kept_training.save_checkpoint", full)
    asked(site(tmp_path), instruction())
    assert caplog.text.count("No space left on device") == 1 and "secret" not in caplog.text


# With a ledger and a coordinator.


def connected(folder: Path, plan: RoundPlan) -> AnnouncingCoordinator:
    coordinator = AnnouncingCoordinator.of(folder, plan)
    settings = yaml.safe_load(coordinator.site.read_text())
    settings |= {"state": str(folder / "state"), "checkpoint_seconds": 0}
    coordinator.site.write_text(yaml.safe_dump(settings))
    return coordinator


def private_plan() -> RoundPlan:
    return tiny_plan(rounds=9, evaluate_every=0, privacy=PRIVACY, local_epochs=3)


@pytest.mark.parametrize("plan", [tiny_plan(rounds=9), private_plan()])
def test_a_reply_that_is_sent_again_has_the_entry_that_it_had(plan: RoundPlan, kills: Kills, tmp_path: Path) -> None:
    coordinator = connected(tmp_path, plan)
    first = coordinator.send(1, "training")
    SITES.forget()
    again = coordinator.send(1, "training")
    assert {name: dict(record) for name, record in again.content.items()} == {
        name: dict(record) for name, record in first.content.items()
    }
    assert [entry.kind for entry in coordinator.entries()] == ["training"]


def test_an_interrupted_private_training_is_spent_once_and_as_one(kills: Kills, tmp_path: Path) -> None:
    coordinator = connected(tmp_path, private_plan())
    kills.kill(2, lambda: coordinator.send(1, "training"))
    assert coordinator.entries() == []
    assert coordinator.send(1, "training").has_content()
    [counts, training] = spent_so_far(coordinator.entries())
    assert counts == Spent(PRIVACY["count_noise"], 1.0, 1) and training.noise_multiplier == PRIVACY["noise_multiplier"]
    assert training.steps > 3 and kills.kept == [(0, step) for step in range(3, training.steps + 1)]


def test_two_private_trainings_of_one_round_are_spent_twice(kills: Kills, tmp_path: Path) -> None:
    """A reply that was lost with its folder may have been seen: the second has other noise."""
    coordinator = connected(tmp_path, private_plan())
    first = coordinator.send(1, "training")
    for one in (tmp_path / "state" / "training" / "newest").iterdir():
        one.unlink()
    SITES.forget()
    again = coordinator.send(1, "training")
    assert dict(first.content["update"]) != dict(again.content["update"])
    assert len([part for part in spent_so_far(coordinator.entries()) if part.steps > 1]) == 2


def test_the_log_says_where_a_training_goes_on(kills: Kills, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = site(tmp_path)
    kills.kill(2, lambda: ask(path, instruction()))
    with caplog.at_level(logging.INFO):
        asked(path, instruction())
        SITES.forget()
        asked(path, instruction())
    assert "goes on behind step 2 of epoch 0" in caplog.text and "its reply is sent again" in caplog.text
