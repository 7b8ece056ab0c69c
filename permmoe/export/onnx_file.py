"""A model as an ONNX file, checked against our own predictions before it is written."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from permmoe.calibration.calibration import change_bounds
from permmoe.config import ModelConfig
from permmoe.data.batch import Batch
from permmoe.data.kinds import kind_of
from permmoe.data.volumes import grid_affine, normalised
from permmoe.ensemble import Network
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.export.portable import PortableModel
from permmoe.layers.encoders import fixed_stem
from permmoe.modality import all_combinations
from permmoe.predict import RESEARCH_NOTICE, SYNTHETIC_NOTICE, TrainedModel
from permmoe.runtime.provenance import versions

LARGEST_DIFFERENCE = 1e-5
"""Points: a file whose predictions differ by more from ours is not written."""
OPSET = 18
MODEL_FILE, DESCRIPTION_FILE = "model.onnx", "model.json"
NOT_IN_THE_GRAPH = (
    "conversion of DICOM, skull removal, bias correction and registration (permmoe data prepare)",
    "background set to 0, resampling onto the grid, and the checks that refuse an image (permmoe.data.volumes)",
    "tables' scaling is in the graph; that no number is missing is not checked",
    "prediction intervals",
)


@dataclass(frozen=True)
class Patients:
    """Invented inputs of a model, as a program of others would give them."""

    inputs: tuple[Tensor, ...]
    """One tensor a modality, with a row for every visit."""
    observed: Bool[Tensor, "visit modality"]
    baseline: Float[Tensor, " visit"]

    def all(self) -> tuple[Tensor, ...]:
        """In the order of the graph's inputs."""
        return (*self.inputs, self.observed, self.baseline)


def export_onnx(trained: TrainedModel, folder: Path) -> float:
    """Write the model and its description into a folder; returns the largest difference from ours, points.

    Raises ConfigurationError for a folder with content and where onnxruntime is missing, PermmoeError where the
    predictions differ by more than 1e-5 points in any combination.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise ConfigurationError("an export to ONNX is checked by running it; run: pip install 'permmoe[onnx]'")
    require_new(folder)
    content = onnx_bytes(trained)
    difference = require_same(trained.network, run_onnx(content, trained.config), "the ONNX file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(content)
    text = json.dumps(description(trained, difference), indent=1)
    (folder / DESCRIPTION_FILE).write_text(text)
    return difference


def require_new(folder: Path) -> None:
    """Raise ConfigurationError for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} holds something already; name a new folder")


def onnx_bytes(trained: TrainedModel) -> bytes:
    """The model as the content of an ONNX file, any number of visits at once."""
    import onnx

    names, patients = input_names(trained.config), invented_patients(trained.config, seed=1)
    # It takes a buffer as well as a path, whatever its signature says.
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The newer exporter traces symbols, which shape checks of tests refuse; both make the same operators.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            PortableModel(trained.network), patients.all(), buffer, dynamo=False, opset_version=OPSET,
            input_names=names, output_names=["change"], dynamic_axes={n: {0: "batch"} for n in [*names, "change"]},
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    model.doc_string = " ".join(notices(trained))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def run_onnx(content: bytes, config: ModelConfig) -> Any:
    """A function from patients to the file's predictions, by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(patients: Patients) -> Float[np.ndarray, " visit"]:
        given = dict(zip(input_names(config), (x.numpy() for x in patients.all()), strict=True))
        found: np.ndarray = session.run(["change"], given)[0]
        return found

    return predict


def require_same(network: Network, predict: Any, what: str) -> float:
    """The largest difference from our predictions over all combinations, points; PermmoeError where it is too large."""
    largest = 0.0
    for seed in range(3):
        patients = invented_patients(network.config, seed)
        difference = np.abs(predict(patients) - our_predictions(network, patients)).max()
        largest = max(largest, float(difference) if np.isfinite(difference) else float("inf"))
    if largest > LARGEST_DIFFERENCE:
        raise PermmoeError(
            f"{what} predicts otherwise than this model, by up to {largest:.2g} points on invented images; nothing was "
            "written. Please report it, with the model's settings"
        )
    return largest


def our_predictions(network: Network, patients: Patients) -> Float[np.ndarray, " visit"]:
    """What `permmoe predict` says of these patients; volumes go through the loader's own functions."""
    config, stem = network.config, fixed_stem(network.config)
    inputs: dict[str, Tensor] = {}
    for column, (modality, given) in enumerate(zip(config.modalities, patients.inputs, strict=True)):
        rows = given[patients.observed[:, column]]
        if kind_of(modality).is_image and len(rows):
            rows = stem(torch.stack([normalised(volume[0], modality) for volume in rows])[:, None])
        inputs[modality.name] = rows
    batch = Batch(inputs, patients.observed, patients.baseline, torch.zeros_like(patients.baseline))
    with torch.no_grad():
        points = network(batch).prediction.double().numpy()
    bounds = [change_bounds(baseline, config) for baseline in patients.baseline.tolist()]
    held: np.ndarray = np.clip(points, *np.array(bounds).T)
    return held


def invented_patients(config: ModelConfig, seed: int) -> Patients:
    """A patient for every combination, with random images of the modality's kind and noise where none was observed."""
    draw = torch.Generator().manual_seed(seed)
    combinations = all_combinations(config.names)
    observed = torch.tensor([[name in c for name in config.names] for c in combinations])
    n = len(observed)
    inputs: list[Tensor] = []
    for modality in config.modalities:
        if kind_of(modality).is_image:
            shape = (n, 1, *config.grid.shape)
            inside = torch.rand(shape, generator=draw) < 0.6
            noise = torch.randn(shape, generator=draw)
            voxels = 1.2 + 0.2 * noise if modality.normalisation == "suvr" else 500 + 120 * noise
            inputs.append(torch.where(inside, voxels, 0.0))
        else:
            noise = torch.randn(n, len(modality.columns), generator=draw)
            means, deviations = (
                torch.tensor(x) if x else d for x, d in ((modality.means, 0.0), (modality.deviations, 1.0))
            )
            inputs.append(means + deviations * noise)
    low, high = config.score.bounds
    share = torch.rand(n, generator=draw)
    baseline = low + (high - low) * share if np.isfinite([low, high]).all() else 3 * share
    return Patients(tuple(inputs), observed, baseline)


def input_names(config: ModelConfig) -> list[str]:
    """The graph's inputs in order."""
    return [*config.names, "observed", "baseline"]


def notices(trained: TrainedModel) -> Sequence[str]:
    """What stands beside every copy of the model."""
    return (RESEARCH_NOTICE, SYNTHETIC_NOTICE) if trained.is_synthetic else (RESEARCH_NOTICE,)


def description(trained: TrainedModel, difference: float) -> dict[str, Any]:
    """What a person needs to call the graph."""
    config = trained.config
    inputs = {
        m.name: {"shape": ["batch", 1, *config.grid.shape], "is": f"{m.name} on the grid, background 0",
                 "normalisation": f"{m.normalisation}, in the graph"}
        if kind_of(m).is_image else {"shape": ["batch", len(m.columns)], "columns": m.columns}
        for m in config.modalities
    }  # fmt: skip
    return {
        "notices": notices(trained),
        "inputs": {
            **inputs,
            "observed": {"shape": ["batch", len(config.names)], "type": "bool", "order": config.names,
                         "is": "which of them the patient has, one at least; the others' numbers count for nothing"},
            "baseline": {"shape": ["batch"], "is": f"{config.score.name} at the visit, {config.score.unit}"},
        },
        "output": {"change": f"predicted change in {config.score.name} at the model's horizon, {config.score.unit}"},
        "grid": {"shape": config.grid.shape, "spacing_mm": config.grid.spacing_mm, "axes": "right, anterior, superior",
                 "voxel_to_mni_mm": grid_affine(config.grid).tolist()},
        "not_in_the_graph": NOT_IN_THE_GRAPH,
        "checked": {"largest_difference_points": difference, "limit_points": LARGEST_DIFFERENCE,
                    "on": "invented images in every combination of modalities, against permmoe predict"},
        "versions": versions(),
    }  # fmt: skip
