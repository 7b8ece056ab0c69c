"""The two sides of every ratio, each measured in a process of its own: `python benchmarks/sides.py SIDE [quick|full]`.

A side prints one JSON object of figures. One thread, seed 0, random volumes unless a cohort is named. What permmoe does
is measured through its own trainer and predictor; the other side is the plain reference (benchmarks/reference.py) or
Flower. The first call of a step is never counted. What only federations need is imported where it is needed: a process
that times a step starts seconds sooner.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import experts
import numpy as np
import torch
from reference import LoopedExperts, ReferencePerMMoE
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from permmoe.config import EncoderConfig, ModelConfig, SplitConfig, TrainConfig, VolumeGrid, read_config
from permmoe.data import dataset
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import ABSENT, FileRows, MemoryRows, VisitData
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.evaluation.combinations import combination_predictions, combination_sums
from permmoe.federated.federation_config import FederationConfig, Wire
from permmoe.layers.encoders import Convolution, fixed_stem
from permmoe.layers.experts import Experts
from permmoe.modality import all_combinations
from permmoe.model import Output, PerMMoE
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe.training import trainer
from permmoe.training.losses import total_loss
from permmoe.training.trainer import autocast, fit, make_model, make_optimiser, train_epochs

if TYPE_CHECKING:
    from permmoe_simulation.studies.sources import StudyData
    from permmoe_simulation.studies.study import Cell

Figures = dict[str, Any]

PUBLISHED = {"width": 128, "tokens": 16, "experts": 16, "top_k": 4, "expert_hidden": 256, "heads": 4}
"""Flex-MoE's defaults for what is behind its encoders."""
PATTERNS = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2))
"""Modalities of one visit after the other: half of all volumes are missing, each modality equally often."""
ROOT = Path(__file__).parents[1]
SHARED = ROOT / "runs" / "benchmark"
"""Folder of the synthetic cohort, written once and kept."""


@dataclass(frozen=True)
class Scale:
    """How large the measured things are."""

    grid: tuple[int, int, int]
    """Voxels of the volumes in steps and predictions."""
    spacing_mm: float
    visits: int
    """A training step; half of their volumes are missing."""
    subjects: int
    """Of the synthetic cohort behind simulation, loader and accuracy."""
    cnn_grid: tuple[int, int, int]
    cnn_spacing_mm: float
    cnn_seconds: float
    """The six-layer CNN's grid and training time in the comparison of accuracies; its last epoch may exceed that."""


SCALES = {
    "quick": Scale((32, 36, 32), 6.0, 4, 240, (32, 36, 32), 6.0, 30.0),
    "full": Scale((91, 109, 91), 2.0, 2, 800, (48, 56, 48), 4.0, 1200.0),
}


def model_config(scale: Scale, kind: str, **changes: Any) -> ModelConfig:
    """The default model on the scale's grid, with an encoder of this kind."""
    grid = VolumeGrid(shape=scale.grid, spacing_mm=scale.spacing_mm)
    return ModelConfig.model_validate(
        {"grid": grid, "encoder": EncoderConfig.model_validate({"kind": kind}), **changes}
    )


def visits_in_memory(config: ModelConfig, scale: Scale) -> VisitData:
    """Visits as a run keeps them: float16 volumes, or what the fixed stem makes of them."""
    torch.manual_seed(0)
    observed = torch.zeros(scale.visits, 4, dtype=torch.bool)
    for visit in range(scale.visits):
        observed[visit, list(PATTERNS[visit % len(PATTERNS)])] = True
    stem = fixed_stem(config)
    inputs = {}
    for column, name in enumerate(config.names):
        inputs[name] = MemoryRows(stem(torch.randn(int(observed[:, column].sum()), 1, *config.grid.shape).half()))
    rows = torch.where(observed, observed.long().cumsum(0) - 1, ABSENT)
    visits = VisitTable(tuple(Visit(f"s{i}", "011", "bl", 1.5, 1.0, 24.0) for i in range(scale.visits)))
    return VisitData(visits, config.names, observed, torch.rand(scale.visits), torch.randn(scale.visits), rows, inputs)


def seconds_of(step: Callable[[], object], at_least: int = 3, for_seconds: float = 1.5) -> float:
    """Median time of a call, after one that is not counted."""
    step()
    times: list[float] = []
    while len(times) < at_least or sum(times) < for_seconds:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def our_step(scale: Scale, kind: str, prepare: Callable[[PerMMoE], object] = lambda model: None) -> Figures:
    """A step of the trainer, from rows in memory to changed weights; `prepare` may change the model beforehand."""
    config = model_config(scale, kind)
    data, model = visits_in_memory(config, scale), make_model(config, 0)
    prepare(model)
    train = TrainConfig(batch_size=scale.visits, modality_dropout=0.0)
    optimiser = make_optimiser(model, train)

    def step() -> None:
        train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    figures = {"seconds": seconds_of(step)}
    with FlopCounterMode(display=False) as counter:
        step()
    quiet = make_model(config.model_copy(update=_quiet(config)), 0).train()
    prepare(quiet)
    with torch.no_grad(), autocast(quiet, train):
        prediction = quiet(data.batch(torch.arange(scale.visits))).prediction
    return figures | {"gflop": counter.get_total_flops() / 1e9, "prediction": prediction.tolist()}


def reference_step(scale: Scale) -> Figures:
    """The same step in plain PyTorch: forward, loss, backward, clipped, AdamW."""
    config = model_config(scale, "cnn")
    batch, model = visits_in_memory(config, scale).batch(torch.arange(scale.visits)), make_model(config, 0)
    train, reference = TrainConfig(), ReferencePerMMoE.of(model).train()
    optimiser = torch.optim.AdamW(reference.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay)

    def step() -> None:
        optimiser.zero_grad()
        loss = total_loss(reference(batch), batch, train)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reference.parameters(), train.gradient_norm)
        optimiser.step()
        loss.item()

    seconds = seconds_of(step)
    quiet = ReferencePerMMoE.of(make_model(config.model_copy(update=_quiet(config)), 0)).train()
    with torch.no_grad():
        prediction = quiet(batch).prediction
    return {"seconds": seconds, "prediction": prediction.tolist()}


def _quiet(config: ModelConfig) -> Mapping[str, Any]:
    """Changes of a configuration after which training mode draws no random number."""
    encoder = config.encoder.model_copy(update={"dropout": 0.0})
    return {"encoder": encoder, "dropout": 0.0, "router_noise": False}


def channels_outermost(model: PerMMoE) -> None:
    """Convolutions as PyTorch has them, feature maps with channels outermost."""
    for module in model.modules():
        if isinstance(module, Convolution):
            module.forward = partial(nn.Conv3d.forward, module)  # type: ignore[method-assign]


def pages_kept(model: PerMMoE) -> None:
    """Freed memory stays in the process, however much, as the trainer has it where there are AMX tiles."""
    trainer.keep_freed_pages = lambda *, without_limit: keep_freed_pages(without_limit=True)


def pages_given_back(model: PerMMoE) -> None:
    """Freed memory goes back to the kernel, but for what the trainer keeps everywhere."""
    trainer.keep_freed_pages = lambda *, without_limit: keep_freed_pages()


def evaluation(scale: Scale, *, is_ours: bool) -> Figures:
    """The default model's predictions for 120 visits from all of their combinations: ours, or a pass a combination."""
    config = ModelConfig()
    data, model = visits_in_memory(config, replace(scale, visits=120, grid=config.grid.shape)), make_model(config, 0)

    def one_by_one() -> np.ndarray:
        combinations = all_combinations(data.names)
        predictions = np.full((len(data), len(combinations)), np.nan)
        for column, combination in enumerate(combinations):
            wanted = torch.tensor([name in combination for name in data.names])
            rows = (data.observed | ~wanted).all(1).nonzero().squeeze(1)
            if len(rows):
                batch = data.batch(rows, (~wanted).expand(len(rows), -1))
                predictions[rows.numpy(), column] = model(batch).prediction.double().numpy()
        return predictions

    def predicted() -> np.ndarray:
        return combination_predictions(model, data) if is_ours else one_by_one()

    model.eval()
    with torch.no_grad():
        predictions = predicted()
        return {"seconds": seconds_of(predicted, 9), "prediction": predictions[~np.isnan(predictions)].tolist()}


def fusion(scale: Scale, *, is_ours: bool) -> Figures:
    """Forward, loss and backward of everything behind the encoders, batch 8 of tokens, published sizes.

    Ours in a process that keeps freed pages, as the trainer's does.
    """
    torch.manual_seed(0)
    if is_ours:
        keep_freed_pages()
    config = ModelConfig.model_validate(PUBLISHED)
    model = make_model(config.model_copy(update={"encoder": EncoderConfig(kind="cnn")}), 0).train()
    module: nn.Module = model if is_ours else ReferencePerMMoE.of(model).train()
    module.encoders = nn.ModuleDict({name: nn.Identity() for name in config.names})
    observed = torch.zeros(8, 4, dtype=torch.bool)
    for visit in range(8):
        observed[visit, list(PATTERNS[visit % len(PATTERNS)])] = True
    inputs = {name: torch.randn(int(observed[:, m].sum()), 16, 128) for m, name in enumerate(config.names)}
    batch = Batch(inputs, observed, torch.rand(8), torch.randn(8))

    def step() -> None:
        module.zero_grad()
        output: Output = module(batch)
        total_loss(output, batch, TrainConfig()).backward()  # type: ignore[no-untyped-call]

    return {"seconds": seconds_of(step)}


def expert_step(scale: Scale, kind: type[nn.Module], sizes: Mapping[str, Any]) -> Figures:
    """Forward and backward of the experts on 32 tokens; ours in a process that keeps freed pages."""
    torch.manual_seed(0)
    if kind is Experts:
        keep_freed_pages()
    config = ModelConfig.model_validate(sizes)
    return {"seconds": seconds_of(experts.step(kind(config), config, 32))}


def prediction(scale: Scale, kind: Literal["pooled", "cnn", "reference"]) -> Figures:
    """One subject with four volumes in memory, from voxels to points."""
    config = model_config(scale, "cnn" if kind == "reference" else kind)
    torch.manual_seed(0)
    volumes = {name: torch.randn(1, 1, *scale.grid).half() for name in config.names}
    model = make_model(config, 0).eval()
    module: nn.Module = ReferencePerMMoE.of(model).eval() if kind == "reference" else model
    stem, observed = fixed_stem(config), torch.ones(1, 4, dtype=torch.bool)

    def forward() -> Tensor:
        inputs = {name: stem(volume).float() for name, volume in volumes.items()}
        output: Output = module(Batch(inputs, observed, torch.ones(1), torch.ones(1)))
        return output.prediction

    with torch.no_grad():
        return {"seconds": seconds_of(forward), "prediction": forward().tolist()}


def site_bytes(scale: Scale, wire: Wire) -> Figures:
    """What a T1+FLAIR site receives and sends in a round of the default model, as written for the wire, bytes.

    A round in which it holds nothing of the new model: after an evaluation of the same weights nothing would come down.
    """
    from permmoe.federated.modules import ModuleLayout, module_support, reachable_modules
    from permmoe.federated.plan import RoundPlan
    from permmoe.federated.records import (
        Instruction,
        PackedModel,
        TrainReply,
        content_bytes,
        write_instruction,
        write_train_reply,
    )
    from permmoe.federated.training_figures import TrainingFigures
    from permmoe.federated.update import ModuleUpdate

    config = ModelConfig()
    data, model = _t1_and_flair(config), make_model(config, 0)
    layout = ModuleLayout.of(model)
    before = layout.flatten_all(model.state_dict())
    plan = RoundPlan(model=config, federation=FederationConfig(wire=wire))
    packed = PackedModel.of(before, wire)
    asked = Instruction(plan, 2, packed.digest())
    down = write_instruction(asked, packed, travelling=reachable_modules(config, config.names[:2]))
    record = train_epochs(model, data, plan.train, first_epoch=0, epochs=2, seed=0)
    support = module_support(config, record.exposure)
    updates = {
        m: ModuleUpdate.of(before[m], layout.flatten(model.state_dict(), m), support[m])
        for m in layout.modules
        if support[m] > 0
    }
    reply = TrainReply("site", 2, asked.model_digest, updates, TrainingFigures(32.0, 1.0, 1.0), config.names[:2])
    up = write_train_reply(reply, asked.up_wire)
    full = 4 * sum(len(values) for values in before.values())
    return {"down": content_bytes(down), "up": content_bytes(up), "full": full}


def _t1_and_flair(config: ModelConfig) -> VisitData:
    data = visits_in_memory(config, replace(SCALES["full"], visits=32))
    observed = torch.zeros(32, 4, dtype=torch.bool)
    observed[:, 0] = observed[:24, 1] = True
    rows = torch.where(observed, torch.arange(32)[:, None] % 16, ABSENT)
    return VisitData(data.visits, data.names, observed, data.baseline, data.target, rows, data.inputs)


def averaging(scale: Scale, *, is_ours: bool) -> Figures:
    """Averaging 40 replies of 4.8 million parameters each."""
    import federation

    return (federation.average_ours if is_ours else federation.average_flower)(40)


def server_memory(scale: Scale, sites: int) -> Figures:
    """Peak memory of a process that serves so many sites."""
    import deployment

    return {"mb": deployment.serve(sites)}


def prepared_cohort(scale: Scale) -> tuple[Cell, StudyData]:
    """The default study's first cell, trained without evaluations, and its cohort at the scale's size."""
    from permmoe_simulation.studies.sources import Progress, prepare_data
    from permmoe_simulation.studies.study import StudyConfig, cells, data_source

    study = read_config(ROOT / "configs" / "studies" / "default.yaml", StudyConfig)
    quiet = Progress(lambda stage, steps: None, lambda step: None, lambda note: None)
    [regime] = study.regimes
    source = data_source(study, regime)
    assert source.synthetic
    source = source.model_copy(update={"synthetic": source.synthetic.model_copy(update={"subjects": scale.subjects})})
    data = prepare_data(source, study.model, SHARED, os.cpu_count() or 1, quiet)
    _, cell = cells(study, {regime: data.digest}, "inprocess")[0]
    return cell, data


@contextlib.contextmanager
def told(module: str, function: str, on_call: Callable[[], object]) -> Iterator[None]:
    """Call `on_call` at the beginning of every call of a function, until the end of the block."""
    owner = importlib.import_module(module)
    original = getattr(owner, function)

    def call(*args: Any, **kwargs: Any) -> Any:
        on_call()
        return original(*args, **kwargs)

    setattr(owner, function, call)
    try:
        yield
    finally:
        setattr(owner, function, original)


def simulated_rounds(scale: Scale, warm_ups: int, rounds: int, on_warm: Callable[[], object]) -> Figures:
    """The default study's hospitals in one process: seconds of a round, all included, and of its local training.

    Evaluation is off. The rounds of the warm-up, in which sites read their data, are left out; `on_warm` is called
    after them.
    """
    from permmoe_simulation.engines.cell_federation import train_federation
    from permmoe_simulation.studies.cell import split_and_partition

    cell, data = prepared_cohort(scale)
    federated = cell.federation.model_dump() | {"rounds": warm_ups + rounds, "evaluate_every": 0, "min_cell_count": 1}
    cell = cell.model_copy(update={"federation": FederationConfig.model_validate(federated)})
    sites, _ = split_and_partition(data.visits, cell)
    begun: list[float] = []
    ended: list[float] = []

    def begin() -> None:
        if len(begun) == warm_ups:
            on_warm()
        begun.append(time.perf_counter())

    with (
        tempfile.TemporaryDirectory() as folder,
        told("permmoe_server.protocol.rounds", "_train", begin),
        # What the simulation does once all rounds are over.
        told(
            "permmoe_simulation.engines.cell_federation", "load_checkpoint", lambda: ended.append(time.perf_counter())
        ),
    ):
        rows = train_federation(cell, sites, data.cache, Path(folder)).rounds
    return {
        "seconds": (ended[0] - begun[warm_ups]) / rounds,
        "training_seconds": sum(row["train_seconds"] for row in rows if row["round"] > warm_ups) / rounds,
        "sites": len(sites),
    }


def simulation(scale: Scale) -> Figures:
    """What a simulated round takes beside its local training, as a share of that."""
    figures = simulated_rounds(scale, 2, 8, lambda: None)
    return figures | {"overhead": figures["seconds"] / figures["training_seconds"] - 1}


def loader(scale: Scale) -> Figures:
    """The default study's data: gathering a batch against the whole step that it is gathered for; and from files."""
    cell, found = prepared_cohort(scale)
    data = VisitData.load(found.visits, cell.model, VolumeCache(found.cache), stem=fixed_stem(cell.model))[0]
    model, rows = make_model(cell.model, 0), torch.arange(cell.train.batch_size)
    some = data.subset(rows)
    optimiser = make_optimiser(model, cell.train)
    step = seconds_of(
        lambda: train_epochs(model, some, cell.train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser), 9
    )
    cnn = model_config(SCALES["quick"], "cnn").model_copy(update={"grid": cell.model.grid})
    files = VisitData.load(found.visits.where(lambda v: v in some.visits.visits), cnn, VolumeCache(found.cache),
                           stem=fixed_stem(cnn), keep_in_memory=False)[0]  # fmt: skip
    assert isinstance(files.inputs["t1"], FileRows)
    n_volumes = int(files.observed.sum())
    return {
        "step_seconds": step,
        "batch_seconds": seconds_of(lambda: some.batch(rows), 9),
        "file_seconds_a_volume": seconds_of(lambda: files.batch(torch.arange(len(files))), 9) / n_volumes,
    }


def step_from_files(scale: Scale, *, is_ahead: bool) -> Figures:
    """A step of the small convolutional encoder, its volumes read from files: the next ones meanwhile, or first."""
    cell, found = prepared_cohort(scale)
    config = cell.model.model_copy(update={"encoder": EncoderConfig(kind="sfcn_lite")})
    train = cell.train.model_copy(update={"batch_size": 4, "modality_dropout": 0.0})
    stem = fixed_stem(config)
    data = VisitData.load(found.visits, config, VolumeCache(found.cache), stem=stem, keep_in_memory=False)[0]
    n_steps = 4
    some, model = data.subset(torch.arange(n_steps * train.batch_size)), make_model(config, 0)
    optimiser = make_optimiser(model, train)
    if not is_ahead:
        dataset.one_ahead = map

    def steps() -> None:
        train_epochs(model, some, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    return {"seconds": seconds_of(steps) / n_steps}


def accuracy(scale: Scale, kind: Literal["pooled", "cnn"]) -> Figures:
    """RMSE on held-out visits of the embedded synthetic cohort, all visits in one place, CDR-SB points.

    Averaged over the combinations, and of predicting the training visits' mean change, which sees nothing.
    """
    cell, found = prepared_cohort(scale)
    encoder = cell.model.encoder.model_copy(update={"kind": kind})
    config = cell.model.model_copy(update={"encoder": encoder})
    if kind == "cnn":
        grid = VolumeGrid(shape=scale.cnn_grid, spacing_mm=scale.cnn_spacing_mm)
        config = config.model_copy(update={"grid": grid})
    table = assign_splits(found.visits, SplitConfig())
    data = VisitData.load(table, config, VolumeCache(found.cache), stem=fixed_stem(config))[0]
    train, test, model = data.part("train"), data.part("test"), make_model(config, 0)
    started, epochs = time.perf_counter(), 0
    if kind == "pooled":
        fit(model, train, data.part("validation"), cell.train)
        epochs = cell.train.epochs
    else:
        settings = TrainConfig(batch_size=8)
        optimiser = make_optimiser(model, settings)
        started = time.perf_counter()
        while not epochs or time.perf_counter() - started < scale.cnn_seconds:
            train_epochs(model, train, settings, first_epoch=epochs, epochs=1, seed=0, optimiser=optimiser)
            epochs += 1
    seconds = time.perf_counter() - started
    sums = [s for s in combination_sums(model, test).values() if s.n]
    mean = float(train.target.mean())
    blind = [(s.target_squared - 2 * mean * s.target + s.n * mean**2) / s.n for s in sums]
    return {
        "mean_rmse": statistics.mean(s.rmse for s in sums), "blind_rmse": statistics.mean(b**0.5 for b in blind),
        "seconds": seconds, "epochs": epochs, "train_visits": len(train), "test_visits": len(test),
        "spacing_mm": config.grid.spacing_mm,
    }  # fmt: skip


def peaks(scale: Scale) -> Figures:
    """What this machine's cores can do: one thread's matrix products and memory traffic."""
    figures: Figures = {}
    for name, dtype, size in (("fp32", torch.float32, 1536), ("bf16", torch.bfloat16, 512)):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        figures[f"{name}_gflops"] = 2e-9 * size**3 / seconds_of(lambda a=a, b=b: a @ b, 5, 0.7)
    source, target = torch.ones(64 << 20), torch.empty(64 << 20)
    figures["memory_gb_a_second"] = 2e-9 * source.nbytes / seconds_of(lambda: target.copy_(source), 5, 0.7)
    return figures


def profiled(scale: Scale) -> Figures:
    """Where the time goes (benchmarks/profile_step.py)."""
    import profile_step

    return profile_step.profiles(scale)


SIDES: Mapping[str, Callable[[Scale], Figures]] = {
    "peaks": peaks,
    "reference_step": reference_step,
    "cnn_step": lambda scale: our_step(scale, "cnn"),
    "cnn_step_channels_outermost": lambda scale: our_step(scale, "cnn", channels_outermost),
    "cnn_step_pages_kept": lambda scale: our_step(scale, "cnn", pages_kept),
    "cnn_step_pages_given_back": lambda scale: our_step(scale, "cnn", pages_given_back),
    "default_step": lambda scale: our_step(scale, "pooled"),
    "sfcn_step": lambda scale: our_step(scale, "sfcn"),
    "fusion": lambda scale: fusion(scale, is_ours=True),
    "fusion_loops": lambda scale: fusion(scale, is_ours=False),
    "experts": lambda scale: expert_step(scale, Experts, PUBLISHED),
    "experts_loop": lambda scale: expert_step(scale, LoopedExperts, PUBLISHED),
    "default_experts": lambda scale: expert_step(scale, Experts, {}),
    "default_experts_loop": lambda scale: expert_step(scale, LoopedExperts, {}),
    "evaluation": lambda scale: evaluation(scale, is_ours=True),
    "evaluation_one_by_one": lambda scale: evaluation(scale, is_ours=False),
    "predict_default": lambda scale: prediction(scale, "pooled"),
    "predict_cnn": lambda scale: prediction(scale, "cnn"),
    "predict_reference": lambda scale: prediction(scale, "reference"),
    "bytes_fp32": partial(site_bytes, wire="fp32"),
    "bytes_fp16": partial(site_bytes, wire="fp16"),
    "bytes_int8": partial(site_bytes, wire="int8"),
    "memory_20": lambda scale: server_memory(scale, 20),
    "memory_500": lambda scale: server_memory(scale, 500),
    "averaging": lambda scale: averaging(scale, is_ours=True),
    "averaging_flower": lambda scale: averaging(scale, is_ours=False),
    "simulation": simulation,
    "loader": loader,
    "files_ahead": lambda scale: step_from_files(scale, is_ahead=True),
    "files_first": lambda scale: step_from_files(scale, is_ahead=False),
    "accuracy_default": lambda scale: accuracy(scale, "pooled"),
    "accuracy_cnn": lambda scale: accuracy(scale, "cnn"),
    "profile": profiled,
}


def settings(scale: str) -> Mapping[str, Any]:
    """All that the figures of a scale depend on, besides versions and machine."""
    return {"scale": asdict(SCALES[scale]), "published": PUBLISHED, "patterns": PATTERNS, "seed": 0, "threads": 1}


def figures_of(side: str, scale: str) -> Figures:
    """What a side measures, on one thread."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    # Flower writes to standard output, which is for the answer.
    with contextlib.redirect_stdout(sys.stderr):
        return SIDES[side](SCALES[scale])


if __name__ == "__main__":
    print(json.dumps(figures_of(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "quick")))
