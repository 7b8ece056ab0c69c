"""The performance goals: which sides each compares, how its figure follows from them, and what it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from permmoe.runtime.devices import has_tiles
from permmoe_benchmarks.pages.text import figure_text

Pair = Mapping[str, Mapping[str, Any]]
"""The figures of all sides that ran in one turn, by side."""

HAS_TILES = has_tiles()
KEPT, GIVEN_BACK = ("cnn_step", "cnn_step_pages_given_back") if HAS_TILES else ("cnn_step_pages_kept", "cnn_step")
"""Two sides that differ in whether freed memory stays; one is what the trainer does on this machine."""


@dataclass(frozen=True)
class Goal:
    """One figure that is measured in several turns, and what it should be."""

    name: str
    says: str
    """What is measured, against what."""
    group: str
    """The sides of a group take turns; goals of a group are computed from the same runs."""
    sides: tuple[str, ...]
    figure: Callable[[Pair], float]
    unit: Literal["×", "%", "MB"]
    sense: Literal["at least", "at most", ""]
    """Empty for a figure that is only shown: a fast path that permmoe does not take, or a size for comparison."""
    limit: float = 0.0
    beside: Callable[[Pair], str] = lambda pair: ""
    """The text beside the figure: agreement of the two results, absolute sizes."""
    stretch: float = 0.0
    repeats: bool = True
    """False where nothing varies, because bytes are counted and nothing is timed."""

    @property
    def wanted(self) -> str:
        """What the figure should be, in words; empty without a limit."""
        if not self.sense:
            return ""
        further = f", stretch {figure_text(self.stretch, self.unit)}" if self.stretch else ""
        return f"{self.sense} {figure_text(self.limit, self.unit)}{further}"

    def is_met(self, median: float) -> bool | None:
        """Whether a median keeps the limit; None without one."""
        match self.sense:
            case "at least":
                return median >= self.limit
            case "at most":
                return median <= self.limit
            case _:
                return None


def speed_ratio(side: str, other: str) -> Callable[[Pair], float]:
    """How many times as fast `side` is as `other`."""
    return lambda pair: float(pair[other]["seconds"] / pair[side]["seconds"])


def ms(seconds: float) -> str:
    """A time in milliseconds, with its unit."""
    return figure_text(1e3 * seconds, "ms")


def both_times(side: str, other: str) -> Callable[[Pair], str]:
    """The text with both times."""
    return lambda pair: f"{ms(pair[side]['seconds'])} against {ms(pair[other]['seconds'])}"


def same_function(side: str, other: str) -> Callable[[Pair], str]:
    """The text with both times and the largest difference of the two predictions."""

    def text(pair: Pair) -> str:
        both = zip(pair[side]["prediction"], pair[other]["prediction"], strict=True)
        difference = max(abs(a - b) for a, b in both)
        return f"{both_times(side, other)(pair)}; predictions differ by {difference:.1g} points at most"

    return text


def share_of_peak(side: str) -> Callable[[Pair], float]:
    """A side's arithmetic a second, per cent of this machine's best matrix product in the same turn."""

    def share(pair: Pair) -> float:
        peak = max(pair["peaks"]["fp32_gflops"], pair["peaks"]["bf16_gflops"])
        return float(100 * pair[side]["gflop"] / pair[side]["seconds"] / peak)

    return share


def arithmetic(side: str) -> Callable[[Pair], str]:
    """The text with the arithmetic that a share of the peak is made of."""
    return lambda pair: (
        f"{pair[side]['gflop']:.3g} GFLOP a step, {pair[side]['gflop'] / pair[side]['seconds']:.3g} GFLOP/s"
    )


def share_of_model(side: str) -> Callable[[Pair], float]:
    """Bytes down and up, per cent of the whole model in fp32 both ways."""
    return lambda pair: 100 * (pair[side]["down"] + pair[side]["up"]) / (2 * pair[side]["full"])


def both_ways(side: str) -> Callable[[Pair], str]:
    """The text with the bytes of each direction."""
    return lambda pair: (
        f"down {pair[side]['down'] / pair[side]['full']:.2f}, up {pair[side]['up'] / pair[side]['full']:.2f} of "
        f"{pair[side]['full'] / 1e6:.2f} MB"
    )


REACHED, FRAME = 68.0, 1.0
"""Per cent of the default model that T1 and FLAIR reach (`reachable_modules`), and what messages may add to it.

The goal was 60% while encoders were most of the default model."""

ACCURACIES = ("accuracy_default", "accuracy_cnn")
"""Sides that run once: what the encoders learn, beside the goals that compare their speeds."""

GOALS = (
    Goal(
        "same-cnn-step", "training step, same six-layer CNN, against plain fp32", "step",
        ("cnn_step", "reference_step"), speed_ratio("cnn_step", "reference_step"), "×", "at least",
        5.0 if HAS_TILES else 1.4, same_function("cnn_step", "reference_step"), 7.0 if HAS_TILES else 0.0,
    ),
    Goal(
        "default-step", "training step, default encoder, against the reference's CNN", "step",
        ("default_step", "reference_step"), speed_ratio("default_step", "reference_step"), "×", "at least", 15.0,
        both_times("default_step", "reference_step"), 40.0,
    ),
    Goal(
        "default-peak", "for comparison: share of the machine's peak, default encoder", "step",
        ("default_step", "peaks"), share_of_peak("default_step"), "%", "", 0.0, arithmetic("default_step"),
    ),
    # Set for a default encoder that convolved.
    Goal(
        "sfcn-peak", "share of the machine's peak, SFCN encoder", "step", ("sfcn_step", "peaks"),
        share_of_peak("sfcn_step"), "%", "at least", 30.0, arithmetic("sfcn_step"), 50.0,
    ),
    Goal(
        "channels-innermost", "for comparison: the same CNN with its channels innermost in memory, against outermost",
        "step", ("cnn_step", "cnn_step_channels_outermost"), speed_ratio("cnn_step", "cnn_step_channels_outermost"),
        "×", "", 0.0, same_function("cnn_step", "cnn_step_channels_outermost"),
    ),
    Goal(
        "kept-pages", "for comparison: freed pages kept in the process, against given back", "step",
        (KEPT, GIVEN_BACK), speed_ratio(KEPT, GIVEN_BACK), "×", "", 0.0, same_function(KEPT, GIVEN_BACK),
    ),
    Goal(
        "evaluation", "for comparison: predictions from all combinations of 120 visits, against a pass a combination",
        "evaluation", ("evaluation", "evaluation_one_by_one"), speed_ratio("evaluation", "evaluation_one_by_one"),
        "×", "", 0.0, same_function("evaluation", "evaluation_one_by_one"),
    ),
    Goal(
        "fusion", "all behind the encoders, batch 8, against loops", "fusion", ("fusion", "fusion_loops"),
        speed_ratio("fusion", "fusion_loops"), "×", "at least", 1.8, both_times("fusion", "fusion_loops"),
    ),
    Goal(
        "experts", "experts on 32 tokens, published sizes, against a loop", "experts", ("experts", "experts_loop"),
        speed_ratio("experts", "experts_loop"), "×", "at least", 4.5, both_times("experts", "experts_loop"),
    ),
    Goal(
        "default-experts", "for comparison: the same with the default model's sizes", "experts",
        ("default_experts", "default_experts_loop"), speed_ratio("default_experts", "default_experts_loop"),
        "×", "", 0.0, both_times("default_experts", "default_experts_loop"),
    ),
    Goal(
        "predict", "prediction, one subject, four modalities, default encoder, against the reference's CNN", "predict",
        ("predict_default", "predict_reference"), speed_ratio("predict_default", "predict_reference"),
        "×", "at least", 20.0, both_times("predict_default", "predict_reference"),
    ),
    Goal(
        "predict-cnn", "for comparison: the same prediction with the same CNN", "predict",
        ("predict_cnn", "predict_reference"), speed_ratio("predict_cnn", "predict_reference"), "×", "", 0.0,
        same_function("predict_cnn", "predict_reference"),
    ),
    Goal(
        "bytes", "bytes a round of a T1+FLAIR site, down and up, against the whole model in fp32 both ways", "bytes",
        ("bytes_fp32",), share_of_model("bytes_fp32"), "%", "at most", REACHED + FRAME, both_ways("bytes_fp32"),
        repeats=False,
    ),
    Goal(
        "bytes-half", "the same with half precision on the wire", "bytes", ("bytes_fp16",),
        share_of_model("bytes_fp16"), "%", "at most", REACHED / 2 + FRAME, both_ways("bytes_fp16"), repeats=False,
    ),
    Goal(
        "bytes-eight-bits", "for comparison: with eight bits up and half precision down", "bytes", ("bytes_int8",),
        share_of_model("bytes_int8"), "%", "", 0.0, both_ways("bytes_int8"), repeats=False,
    ),
    Goal(
        "server-memory", "server memory, 20 to 500 clients", "memory", ("memory_20", "memory_500"),
        lambda pair: float(pair["memory_500"]["mb"] - pair["memory_20"]["mb"]), "MB", "at most", 5.0,
        lambda pair: f"{pair['memory_20']['mb']} MB and {pair['memory_500']['mb']} MB, the nodes' own state included",
    ),
    Goal(
        "averaging",
        "averaging 40 replies of 4.8 million parameters, from their bytes to new weights: checked, in exact sums that "
        "no order changes, against Flower's FedAvg, which looks at no value and adds in float32",
        "averaging", ("averaging", "averaging_flower"), speed_ratio("averaging", "averaging_flower"),
        "×", "at least", 3.0,
        lambda pair: (
            f"{both_times('averaging', 'averaging_flower')(pair)}; peak above the model "
            f"{pair['averaging']['peak_mb_above_model']:.0f} MB against "
            f"{pair['averaging_flower']['peak_mb_above_model']:.0f} MB"
        ),
    ),
    Goal(
        "simulation", "a simulated round's time beside its local training, default study", "simulation",
        ("simulation",), lambda pair: 100 * pair["simulation"]["overhead"], "%", "at most", 3.0,
        lambda pair: (
            f"{ms(pair['simulation']['training_seconds'])} of training in a round of "
            f"{ms(pair['simulation']['seconds'])}, {pair['simulation']['sites']} sites"
        ),
    ),
    Goal(
        "loader", "loader, share of a training step, default study", "loader", ("loader",),
        lambda pair: 100 * pair["loader"]["batch_seconds"] / pair["loader"]["step_seconds"], "%", "at most", 5.0,
        lambda pair: (
            f"{ms(pair['loader']['batch_seconds'])} of {ms(pair['loader']['step_seconds'])}; "
            f"a 4 mm volume from its file {ms(pair['loader']['file_seconds_a_volume'])}"
        ),
    ),
    Goal(
        "prefetch", "for comparison: a small convolutional encoder's step on volumes from files, the next batch read "
        "meanwhile, against each read first", "prefetch", ("files_ahead", "files_first"),
        speed_ratio("files_ahead", "files_first"), "×", "", 0.0, both_times("files_ahead", "files_first"),
    ),
)  # fmt: skip

CANDIDATES: tuple[Goal, ...] = ()
"""Fast paths that permmoe does not take yet."""

NOT_HERE = (("gpu-step", "training step on a GPU: bf16, channels_last_3d, no hidden synchronisation, deterministic"),)
"""A goal that no run here can measure: there is no GPU."""
