"""The goals, a row each: which sides are run, how a figure comes from them, and what it should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from page import figure_text

from permmoe.runtime.devices import has_tiles

Pair = Mapping[str, Mapping[str, Any]]
"""Figures of all sides that were run in one turn, by side."""

HAS_TILES = has_tiles()
KEPT, GIVEN_BACK = ("cnn_step", "cnn_step_pages_given_back") if HAS_TILES else ("cnn_step_pages_kept", "cnn_step")
"""Sides that differ in what becomes of freed memory; one of them is what the trainer does on this machine."""


@dataclass(frozen=True)
class Row:
    """One figure that is measured again and again."""

    name: str
    says: str
    """What is measured, against what."""
    group: str
    """Sides of a group take turns; rows of a group are computed from the same runs."""
    sides: tuple[str, ...]
    figure: Callable[[Pair], float]
    unit: Literal["×", "%", "MB"]
    sense: Literal["at least", "at most", ""]
    """Empty for a row without a goal: a fast path that permmoe does not take yet, or a size for comparison."""
    goal: float = 0.0
    beside: Callable[[Pair], str] = lambda pair: ""
    """What belongs to the figure: agreement of the two results, absolute sizes."""
    stretch: float = 0.0
    repeats: bool = True
    """False where nothing varies: counted, not timed."""

    @property
    def wanted(self) -> str:
        """The goal in words; empty without one."""
        if not self.sense:
            return ""
        further = f", stretch {figure_text(self.stretch, self.unit)}" if self.stretch else ""
        return f"{self.sense} {figure_text(self.goal, self.unit)}{further}"

    def is_met(self, median: float) -> bool | None:
        """Whether a median reaches the goal; None without a goal."""
        match self.sense:
            case "at least":
                return median >= self.goal
            case "at most":
                return median <= self.goal
            case _:
                return None


def faster(ours: str, theirs: str) -> Callable[[Pair], float]:
    """How many times the seconds of `ours` go into those of `theirs`."""
    return lambda pair: float(pair[theirs]["seconds"] / pair[ours]["seconds"])


def ms(seconds: float) -> str:
    """Seconds as milliseconds with their unit."""
    return figure_text(1e3 * seconds, "ms")


def milliseconds(ours: str, theirs: str) -> Callable[[Pair], str]:
    """Both times."""
    return lambda pair: f"{ms(pair[ours]['seconds'])} against {ms(pair[theirs]['seconds'])}"


def same_function(ours: str, theirs: str) -> Callable[[Pair], str]:
    """Both times, and how far the two predictions differ."""

    def text(pair: Pair) -> str:
        both = zip(pair[ours]["prediction"], pair[theirs]["prediction"], strict=True)
        difference = max(abs(a - b) for a, b in both)
        return f"{milliseconds(ours, theirs)(pair)}; predictions differ by {difference:.1g} points at most"

    return text


def share_of_peak(side: str) -> Callable[[Pair], float]:
    """Arithmetic a second over the best that this machine's matrix product reached in the same turn, per cent."""

    def share(pair: Pair) -> float:
        peak = max(pair["peaks"]["fp32_gflops"], pair["peaks"]["bf16_gflops"])
        return float(100 * pair[side]["gflop"] / pair[side]["seconds"] / peak)

    return share


def arithmetic(side: str) -> Callable[[Pair], str]:
    """What a share of the peak is made of."""
    return lambda pair: (
        f"{pair[side]['gflop']:.3g} GFLOP a step, {pair[side]['gflop'] / pair[side]['seconds']:.3g} GFLOP/s"
    )


def share_of_model(side: str) -> Callable[[Pair], float]:
    """Bytes down and up over those of the whole model in fp32 both ways, per cent."""
    return lambda pair: 100 * (pair[side]["down"] + pair[side]["up"]) / (2 * pair[side]["full"])


def both_ways(side: str) -> Callable[[Pair], str]:
    """What a share of bytes is made of."""
    return lambda pair: (
        f"down {pair[side]['down'] / pair[side]['full']:.2f}, up {pair[side]['up'] / pair[side]['full']:.2f} of "
        f"{pair[side]['full'] / 1e6:.2f} MB"
    )


ACCURACIES = ("accuracy_default", "accuracy_cnn")
"""Sides that are run once: what the encoders learn, beside the rows that compare their speeds."""

ROWS = (
    Row(
        "same-cnn-step", "training step, same six-layer CNN, against plain fp32", "step",
        ("cnn_step", "reference_step"), faster("cnn_step", "reference_step"), "×", "at least",
        5.0 if HAS_TILES else 1.4, same_function("cnn_step", "reference_step"), 7.0 if HAS_TILES else 0.0,
    ),
    Row(
        "default-step", "training step, default encoder, against the reference's CNN", "step",
        ("default_step", "reference_step"), faster("default_step", "reference_step"), "×", "at least", 15.0,
        milliseconds("default_step", "reference_step"), 40.0,
    ),
    Row(
        "default-peak", "share of the machine's peak, default encoder", "step", ("default_step", "peaks"),
        share_of_peak("default_step"), "%", "at least", 30.0, arithmetic("default_step"), 50.0,
    ),
    Row(
        "sfcn-peak", "for comparison: the SFCN encoder's share", "step", ("sfcn_step", "peaks"),
        share_of_peak("sfcn_step"), "%", "", 0.0, arithmetic("sfcn_step"),
    ),
    Row(
        "channels-innermost", "for comparison: the same CNN with its channels innermost in memory, against outermost",
        "step", ("cnn_step", "cnn_step_channels_outermost"), faster("cnn_step", "cnn_step_channels_outermost"), "×", "",
        0.0, same_function("cnn_step", "cnn_step_channels_outermost"),
    ),
    Row(
        "kept-pages", "for comparison: freed pages kept in the process, against given back", "step",
        (KEPT, GIVEN_BACK), faster(KEPT, GIVEN_BACK), "×", "", 0.0, same_function(KEPT, GIVEN_BACK),
    ),
    Row(
        "evaluation", "for comparison: predictions from all combinations of 120 visits, against a pass a combination",
        "evaluation", ("evaluation", "evaluation_one_by_one"), faster("evaluation", "evaluation_one_by_one"), "×", "",
        0.0, same_function("evaluation", "evaluation_one_by_one"),
    ),
    Row(
        "fusion", "all behind the encoders, batch 8, against loops", "fusion", ("fusion", "fusion_loops"),
        faster("fusion", "fusion_loops"), "×", "at least", 1.8, milliseconds("fusion", "fusion_loops"),
    ),
    Row(
        "experts", "experts on 32 tokens, published sizes, against a loop", "experts", ("experts", "experts_loop"),
        faster("experts", "experts_loop"), "×", "at least", 4.5, milliseconds("experts", "experts_loop"),
    ),
    Row(
        "default-experts", "for comparison: the same with the default model's sizes", "experts",
        ("default_experts", "default_experts_loop"), faster("default_experts", "default_experts_loop"), "×", "", 0.0,
        milliseconds("default_experts", "default_experts_loop"),
    ),
    Row(
        "predict", "prediction, one subject, four modalities, default encoder, against the reference's CNN", "predict",
        ("predict_default", "predict_reference"), faster("predict_default", "predict_reference"), "×", "at least", 20.0,
        milliseconds("predict_default", "predict_reference"),
    ),
    Row(
        "predict-cnn", "for comparison: the same prediction with the same CNN", "predict",
        ("predict_cnn", "predict_reference"), faster("predict_cnn", "predict_reference"), "×", "", 0.0,
        same_function("predict_cnn", "predict_reference"),
    ),
    Row(
        "bytes", "bytes a round of a T1+FLAIR site, down and up, against the whole model in fp32 both ways", "bytes",
        ("bytes_fp32",), share_of_model("bytes_fp32"), "%", "at most", 60.0, both_ways("bytes_fp32"), repeats=False,
    ),
    Row(
        "bytes-half", "the same with half precision on the wire", "bytes", ("bytes_fp16",),
        share_of_model("bytes_fp16"), "%", "at most", 30.0, both_ways("bytes_fp16"), repeats=False,
    ),
    Row(
        "bytes-eight-bits", "for comparison: with eight bits up and half precision down", "bytes", ("bytes_int8",),
        share_of_model("bytes_int8"), "%", "", 0.0, both_ways("bytes_int8"), repeats=False,
    ),
    Row(
        "server-memory", "server memory, 20 to 500 clients", "memory", ("memory_20", "memory_500"),
        lambda pair: float(pair["memory_500"]["mb"] - pair["memory_20"]["mb"]), "MB", "at most", 5.0,
        lambda pair: f"{pair['memory_20']['mb']} MB and {pair['memory_500']['mb']} MB, the nodes' own state included",
    ),
    Row(
        "averaging",
        "averaging 40 replies of 4.8 million parameters, from their bytes to new weights: checked, in exact sums that "
        "no order changes, against Flower's FedAvg, which looks at no value and adds in float32",
        "averaging", ("averaging", "averaging_flower"), faster("averaging", "averaging_flower"), "×", "at least", 3.0,
        lambda pair: (
            f"{milliseconds('averaging', 'averaging_flower')(pair)}; peak above the model "
            f"{pair['averaging']['peak_mb_above_model']:.0f} MB against "
            f"{pair['averaging_flower']['peak_mb_above_model']:.0f} MB"
        ),
    ),
    Row(
        "simulation", "a simulated round's time beside its local training, default study", "simulation",
        ("simulation",), lambda pair: 100 * pair["simulation"]["overhead"], "%", "at most", 3.0,
        lambda pair: (
            f"{ms(pair['simulation']['training_seconds'])} of training in a round of "
            f"{ms(pair['simulation']['seconds'])}, {pair['simulation']['sites']} sites"
        ),
    ),
    Row(
        "loader", "loader, share of a training step, default study", "loader", ("loader",),
        lambda pair: 100 * pair["loader"]["batch_seconds"] / pair["loader"]["step_seconds"], "%", "at most", 5.0,
        lambda pair: (
            f"{ms(pair['loader']['batch_seconds'])} of {ms(pair['loader']['step_seconds'])}; "
            f"a 4 mm volume from its file {ms(pair['loader']['file_seconds_a_volume'])}"
        ),
    ),
    Row(
        "prefetch", "for comparison: a small convolutional encoder's step on volumes from files, the next batch read "
        "meanwhile, against each read first", "prefetch", ("files_ahead", "files_first"),
        faster("files_ahead", "files_first"), "×", "", 0.0, milliseconds("files_ahead", "files_first"),
    ),
)  # fmt: skip

CANDIDATES: tuple[Row, ...] = ()
"""Fast paths that permmoe does not take yet."""

NOT_HERE = (("gpu-step", "training step on a GPU: bf16, channels_last_3d, no hidden synchronisation, deterministic"),)
"""A goal that no run here can measure: there is no GPU."""
