"""Cells share GPUs by what was measured of their kind: spread over all, never more on one than its memory holds."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

import permmoe_simulation.studies.gpu_places as gpu_places
from permmoe.config import parse_config
from permmoe.errors import ConfigurationError, DeviceUnusable
from permmoe.runtime.devices import free_gpu_bytes, training_device
from permmoe_simulation.studies.cell import gpu_memory_key, wants_gpu
from permmoe_simulation.studies.gpu_places import (
    BESIDE_TENSORS_BYTES,
    Job,
    Places,
    done_in_places,
    gpu_for,
    study_gpus,
)
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.study import StudyConfig, cells
from tests.support.pretended_gpu import pretend_gpus
from tests.support.tiny_study import METHODS, settings

GB = 10**9


def test_a_cell_goes_where_fewest_run_and_waits_where_no_memory_is_enough() -> None:
    free = {"cuda:0": 10 * GB, "cuda:1": 24 * GB}
    assert gpu_for(3 * GB, free, {}) == "cuda:1"
    assert gpu_for(3 * GB, free, {"cuda:1": [GB]}) == "cuda:0"
    assert gpu_for(3 * GB, free, {"cuda:0": [GB], "cuda:1": [GB, GB]}) == "cuda:0"
    assert gpu_for(3 * GB, free, {"cuda:0": [9 * GB], "cuda:1": [20 * GB]}) == "cuda:1"
    assert gpu_for(5 * GB, free, {"cuda:0": [9 * GB], "cuda:1": [20 * GB]}) is None
    assert gpu_for(3 * GB, {}, {}) is None


def test_a_cell_of_unknown_need_has_a_gpu_to_itself() -> None:
    free = {"cuda:0": 10 * GB, "cuda:1": 24 * GB}
    assert gpu_for(None, free, {"cuda:1": [GB]}) == "cuda:0"
    assert gpu_for(None, free, {"cuda:0": [GB], "cuda:1": [GB]}) is None


def test_a_cell_that_needs_more_than_any_gpu_has_is_tried_alone() -> None:
    assert gpu_for(99 * GB, {"cuda:0": 10 * GB}, {}) == "cuda:0"
    assert gpu_for(99 * GB, {"cuda:0": 10 * GB}, {"cuda:0": [GB]}) is None


class Card:
    """Jobs that take memory of a GPU for a moment, and what was seen of them meanwhile."""

    def __init__(self, needs: dict[str, int]) -> None:
        self.needs, self.lock = needs, threading.Lock()
        self.bytes_now: Counter[str] = Counter()
        self.most_bytes: Counter[str] = Counter()
        self.ran: list[tuple[str, str]] = []

    def job(self, kind: str, *, wants_gpu: bool = True) -> Job[str, int]:
        def work(device: str) -> int:
            need = self.needs[kind] + BESIDE_TENSORS_BYTES
            with self.lock:
                self.ran.append((kind, device))
                self.bytes_now[device] += need
                self.most_bytes[device] = max(self.most_bytes[device], self.bytes_now[device])
            # So that those which may run together do.
            time.sleep(0.01)
            with self.lock:
                self.bytes_now[device] -= need
            return self.needs[kind]

        return Job(kind, work, wants_gpu, kind)


def ran(jobs: list[Job[str, int]], workers: int, gpus: dict[str, int], *, falls_back: bool = False) -> list[str]:
    with ThreadPoolExecutor(workers) as pool:
        done = done_in_places(pool, jobs, workers, Places(gpus, falls_back), lambda used: used)
        return [what for what, future in done if future.result() is not None]


def test_all_jobs_are_run_and_none_more_at_a_time_than_memory_allows() -> None:
    card = Card({"small": GB, "large": 7 * GB})
    jobs = [card.job("small") for _ in range(11)] + [card.job("large") for _ in range(5)]
    gpus = {"cuda:0": 10 * GB, "cuda:1": 17 * GB}
    assert sorted(ran(jobs, 7, gpus)) == ["large"] * 5 + ["small"] * 11
    assert card.most_bytes["cuda:0"] <= 10 * GB and card.most_bytes["cuda:1"] <= 17 * GB
    assert {device for _, device in card.ran} == set(gpus)


def test_the_first_of_a_kind_is_alone_and_the_others_share_all_gpus_evenly() -> None:
    small, large = (Card({"small": GB, "large": 7 * GB}).job(kind) for kind in ("small", "large"))
    places = Places({"cuda:0": 10 * GB, "cuda:1": 20 * GB}, falls_back=False)
    first, second = places.take(small), places.take(large)
    assert first == ("cuda:1", 20 * GB) and second == ("cuda:0", 10 * GB) and places.take(small) is None
    places.leave(small, first, GB)
    assert second is not None
    places.leave(large, second, 7 * GB)
    need = GB + BESIDE_TENSORS_BYTES
    found = [places.take(small) for _ in range(13)]
    assert found == [("cuda:1", need), ("cuda:0", need)] * 4 + [("cuda:1", need)] * 5
    assert places.take(small) is None, "14 would need more than there is"
    places.leave(small, ("cuda:0", need), 3 * GB)
    assert places.take(small) is None, "what another one took since is what the next one is given"


def test_what_wants_no_gpu_does_not_wait_for_one() -> None:
    card = Card({"small": GB, "null": 0})
    jobs = [card.job("small"), card.job("small"), card.job("null", wants_gpu=False)]
    ran(jobs, 3, {"cuda:0": 9 * GB})
    assert card.ran[1] == ("null", "cpu")


def test_without_a_gpu_jobs_run_on_the_cpu_in_their_order() -> None:
    card = Card({str(i): 0 for i in range(7)})
    jobs = [card.job(str(i)) for i in range(7)]
    assert ran(jobs, 1, {}) == [str(i) for i in range(7)]
    assert card.ran == [(str(i), "cpu") for i in range(7)]


def test_at_auto_a_job_is_told_a_gpu_that_the_cpu_may_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card({"small": GB})
    ran([card.job("small")], 1, {"cuda:1": 9 * GB}, falls_back=True)
    [(_, device)] = card.ran
    pretend_gpus(monkeypatch, count=2)
    assert training_device(device) == "cuda:1" and training_device(device, gains_from_gpu=False) == "cpu"


def test_a_job_that_fails_leaves_its_place_and_a_lost_process_fails_the_rest() -> None:
    card = Card({"small": GB})

    def broken(device: str) -> int:
        raise DeviceUnusable("gone")

    jobs: list[Job[str, int]] = [replace(card.job("small"), what="broken", work=broken), card.job("small")]
    with ThreadPoolExecutor(1) as pool:
        done = dict(done_in_places(pool, jobs, 1, Places({"cuda:0": GB}, falls_back=False), lambda used: used))
    assert isinstance(done["broken"].exception(), DeviceUnusable) and done["small"].result() == GB

    class Lost(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise BrokenExecutor("a process ended")

    left = list(done_in_places(Lost(1), jobs, 1, Places({}, falls_back=False), lambda used: used))
    assert len(left) == 2 and all(isinstance(future.exception(), BrokenExecutor) for _, future in left)


def test_the_gpus_of_a_study_are_those_that_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    progress = Progress(lambda *_: None, lambda _: None, said.append)
    monkeypatch.setattr(gpu_places, "worker_pool", lambda n: ThreadPoolExecutor(n))
    assert study_gpus("cpu", progress) == {} and said == []
    monkeypatch.setattr(torch.version, "cuda", None)
    assert study_gpus("auto", progress) == {} and "this build of PyTorch is for CPUs alone" in said.pop()
    with pytest.raises(DeviceUnusable, match="device cuda: this build of PyTorch is for CPUs alone"):
        study_gpus("cuda", progress)
    with pytest.raises(ConfigurationError, match="'abacus' is not a device for studies"):
        study_gpus("abacus", progress)
    pretend_gpus(monkeypatch, count=3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (int(gpu[-1]) * GB, 80 * GB))
    assert study_gpus("cuda:2", progress) == {"cuda:2": 2 * GB}
    assert study_gpus("auto", progress) == {"cuda:0": 0, "cuda:1": GB, "cuda:2": 2 * GB}
    assert said[-1] == "GPUs: cuda:0 (0 B free), cuda:1 (1.0 GB free), cuda:2 (2.0 GB free)"
    monkeypatch.setattr("permmoe.runtime.devices.computes_on", lambda gpu: gpu != "cuda:1")
    assert free_gpu_bytes() == ({"cuda:0": 0, "cuda:2": 2 * GB}, "cuda:1: it computes wrongly")
    assert study_gpus("cuda", progress).keys() == {"cuda:0", "cuda:2"} and said[-1].startswith("not used: cuda:1")


def test_cells_that_train_want_a_gpu_and_at_auto_those_whose_encoder_gains() -> None:
    convolving = {"kind": "centralised", "label": "CNN", "model": {"encoder": {"kind": "sfcn_lite"}}}
    study = parse_config(settings(methods={**METHODS, "cnn": convolving}), StudyConfig, "study")
    grid = [cell for _, cell in cells(study, dict.fromkeys(study.regimes, "d"), "inprocess") if cell.seed == 0]
    by_name = dict(zip([*METHODS, "cnn"], grid, strict=True))
    assert {name for name, cell in by_name.items() if wants_gpu([cell], "cuda")} == by_name.keys() - {"clinical-null"}
    assert {name for name, cell in by_name.items() if wants_gpu([cell], "auto")} == {"cnn"}
    keys = {name: gpu_memory_key([cell]) for name, cell in by_name.items()}
    assert keys["federated"] == keys["centralised"] != keys["cnn"]
    small = [by_name["centralised"]]
    assert wants_gpu(small * 2, "auto") and gpu_memory_key(small * 2) != gpu_memory_key(small)
