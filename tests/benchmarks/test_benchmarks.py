"""The benchmarks' plain reference computes what the model computes, and the runner says what was measured.

No test here looks at a clock.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.data.batch import Batch
from permmoe.errors import ConfigurationError
from permmoe.layers.encoders import Convolution
from permmoe.layers.experts import Experts
from permmoe.layers.routers import top_k_gates
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.losses import total_loss
from tests.support.model_batches import random_pattern

# Scripts beside each other, not a package: run as `python benchmarks/run.py`.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import goals
import profile_step
import sides
from reference import LoopedExperts, ReferencePerMMoE, corresponding, looped_pairs

import run as runner

GRID = (24, 25, 29)


def config_of(**changes: object) -> ModelConfig:
    settings = {
        "modalities": tuple(Modality(name=f"volume{i}") for i in range(2)),
        "grid": VolumeGrid(shape=GRID), "encoder": EncoderConfig(kind="cnn", dropout=0.0), "tokens": 3, "width": 10,
        "heads": 2, "experts": 7, "top_k": 2, "expert_hidden": 13, "head_hidden": 11, "dropout": 0.0,
    }  # fmt: skip
    return ModelConfig.model_validate(settings | changes)


def batch_of(config: ModelConfig, n_visits: int) -> Batch:
    observed = random_pattern(n_visits, len(config.modalities))
    volumes = {name: torch.rand(int(n), 1, *GRID) for name, n in zip(config.names, observed.sum(0), strict=True) if n}
    return Batch(volumes, observed, torch.rand(n_visits) * 5, torch.randn(n_visits))


def fixed_noise(like: Tensor) -> Tensor:
    """Noise that depends on a token's values and not on the order in which tokens are asked about."""
    return torch.sin(3 * like.detach())


@pytest.mark.parametrize("changes", [{}, {"router_noise": False, "tokens": 1}, {"top_k": 7, "tokens": 1}])
def test_the_reference_equals_the_model_gradients_included(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = config_of(**changes)
    batch, model = batch_of(config, 4), PerMMoE(config).train()
    torch.nn.init.normal_(model.routers.noise_weight)
    monkeypatch.setattr(torch, "randn_like", fixed_noise)
    # Another layout in memory rounds otherwise, and where two voxels are nearly equal the other one wins the pooling.
    monkeypatch.setattr(Convolution, "forward", nn.Conv3d.forward)
    reference = ReferencePerMMoE.of(model).train()
    ours, theirs = model(batch), reference(batch)
    torch.testing.assert_close(theirs.prediction, ours.prediction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.routing.gates, ours.routing.gates, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.routing.load, ours.routing.load, atol=1e-4, rtol=1e-5)
    for output in (ours, theirs):
        total_loss(output, batch, TrainConfig()).backward()  # type: ignore[no-untyped-call]
    gradients = [
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in m.named_parameters()}
        for m in (model, reference)
    ]
    pairs = list(corresponding(*gradients, config))
    assert sum(a.numel() for a, _ in pairs) == sum(p.numel() for p in model.parameters())
    assert sum(float(a.abs().sum()) > 0 for a, _ in pairs) > len(pairs) / 2
    for mine, other in pairs:
        torch.testing.assert_close(other, mine, atol=1e-5, rtol=1e-4)


def test_the_reference_equals_the_model_in_evaluation() -> None:
    torch.manual_seed(1)
    model = PerMMoE(config_of()).eval()
    batch = batch_of(model.config, 4)
    with torch.no_grad():
        expected, found = model(batch).prediction, ReferencePerMMoE.of(model).eval()(batch).prediction
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_looped_experts_equal_the_batched_ones_gradients_included() -> None:
    torch.manual_seed(2)
    config = config_of()
    batched, looped = Experts(config), LoopedExperts(config)
    for bias in (batched.b1, batched.b2):
        torch.nn.init.normal_(bias)
    with torch.no_grad():
        for name, value in batched.named_parameters():
            for own, theirs in looped_pairs(name, value, dict(looped.named_parameters()), "experts"):
                theirs.copy_(own)
    tokens, direction = torch.randn(31, config.width, requires_grad=True), torch.randn(31, config.width)
    gates = top_k_gates(torch.randn(1, 31, config.experts), 2)[0][0].requires_grad_()
    found = []
    for module in (batched, looped):
        output = module(tokens, gates)
        found.append((output, *torch.autograd.grad(output, (tokens, gates), direction)))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(slow, fast, atol=1e-5, rtol=1e-5)


class FakeSides:
    """Answers for every side of the registry, and who was asked in which order."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, side: str, scale: str) -> dict[str, object]:
        self.asked.append(side)
        parts = {"total": 4.0, "one": 3.0, "rest": 1.0}
        profile = {"visits": 3, "parts_ms": parts, "operations_ms": {"aten::mm": 2.0}}
        return {
            "seconds": 1.0 + len(self.asked), "training_seconds": 2.0, "overhead": 0.5, "sites": 3, "gflop": 5.0,
            "prediction": [1.0, 2.0], "fp32_gflops": 7.0, "bf16_gflops": 11.0, "memory_gb_a_second": 13.0, "down": 3,
            "up": 2, "full": 5, "mb": 17, "peak_mb_above_model": 19.0, "step_seconds": 1.0, "batch_seconds": 0.01,
            "file_seconds_a_volume": 0.001, "mean_rmse": 1.0, "blind_rmse": 1.5, "epochs": 2, "train_visits": 23,
            "test_visits": 29, "spacing_mm": 4.0, "default_step": profile, "cnn_step": profile,
            "simulated_round": {"sites": 3, "parts_ms": parts},
        }  # fmt: skip


def test_every_goal_has_sides_that_exist() -> None:
    known = set(sides.SIDES)
    assert {side for row in (*goals.ROWS, *goals.CANDIDATES) for side in row.sides} <= known
    assert {*goals.ACCURACIES, "profile"} <= known
    names = [row.name for row in (*goals.ROWS, *goals.CANDIDATES)]
    assert len(set(names)) == len(names)


def test_sides_take_turns_and_who_begins_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeSides()
    monkeypatch.setattr(runner, "run_side", fake)
    [row] = [row for row in goals.ROWS if row.name == "fusion"]
    turns, failed = runner.measured([row], "quick", 3)
    assert not failed
    assert fake.asked == ["fusion", "fusion_loops", "fusion_loops", "fusion", "fusion", "fusion_loops"]
    assert [turn["fusion"]["seconds"] for turn in turns["fusion"]] == [2.0, 5.0, 6.0]


def test_what_fails_is_named_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_fails(side: str, scale: str) -> dict[str, float]:
        if side == "experts":
            raise ConfigurationError("the side experts failed")
        return {"seconds": 1.0}

    monkeypatch.setattr(runner, "run_side", one_fails)
    rows = [row for row in goals.ROWS if row.name in ("fusion", "experts")]
    turns, failed = runner.measured(rows, "quick", 2)
    assert failed == {"experts": "the side experts failed"} and len(turns["fusion"]) == 2


def test_a_row_is_judged_by_its_median_and_shows_its_spread() -> None:
    [row] = [row for row in goals.ROWS if row.name == "fusion"]
    turns = [{"fusion": {"seconds": 1.0}, "fusion_loops": {"seconds": theirs}} for theirs in (1.7, 1.9, 30.0)]
    summary = runner.summary(row, {"fusion": turns})
    assert (summary["median"], summary["least"], summary["most"], summary["is_met"]) == (1.9, 1.7, 30.0, True)
    assert runner.summary(row, {"fusion": turns[:1]})["is_met"] is False


def test_the_page_is_written_from_the_json_and_shows_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_side", FakeSides())
    runner.benchmark(full=False, only="*", pairs=2, out=tmp_path / "performance")
    result = json.loads((tmp_path / "performance.json").read_text())
    text = (tmp_path / "performance.md").read_text()
    assert text == runner.page(result)
    for row in (*result["rows"], *result["candidates"], *result["not_measured"]):
        assert f"| {row['says']} |" in text
    assert text.count("**met**") == sum(row["is_met"] is True for row in result["rows"])
    assert text.count("not met") == sum(row["is_met"] is False for row in result["rows"])
    assert text.count("not measured here") == len(goals.NOT_HERE)


def test_a_named_row_alone_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_side", FakeSides())
    runner.benchmark(full=False, only="experts", pairs=1, out=tmp_path / "performance")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="no row is called"):
        runner.benchmark(full=False, only="nothing", pairs=1, out=tmp_path / "performance")


def test_the_digest_of_the_settings_depends_on_them_alone() -> None:
    assert runner.digest({"a": 1, "b": (2,)}) == runner.digest({"b": [2], "a": 1}) != runner.digest({"a": 2, "b": [2]})


def test_a_stopwatch_gives_each_part_its_own_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(profile_step.time, "perf_counter", lambda: now[0])
    watch = profile_step.Stopwatch()

    def spend(seconds: float) -> None:
        now[0] += seconds

    inner = watch.timed("inner", lambda: spend(3.0))

    def work() -> None:
        spend(2.0)
        inner()
        inner()

    watch.timed("outer", work)()
    assert dict(watch.seconds) == {"outer": 2.0, "inner": 6.0}


def test_every_profiled_function_exists_and_is_put_back() -> None:
    parts = [*profile_step.STEP, *profile_step.ROUND]
    before = PerMMoE.forward
    with profile_step.Stopwatch().watching(parts):
        assert PerMMoE.forward is not before
    assert PerMMoE.forward is before


def test_without_a_gpu_the_gpu_benchmark_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    import gpu

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gpu.py"])
        gpu.main()
    assert capsys.readouterr().out == "no GPU\n"
