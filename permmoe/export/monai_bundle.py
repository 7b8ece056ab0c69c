"""A model as a MONAI bundle: TorchScript, its settings, and a configuration that `monai.bundle run` runs.

```sh
python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE \
  --images "{'t1': 't1.nii.gz'}" --baseline 1.5
```
The images are read by this package's own functions, so it has to be installed there.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from permmoe.config import ModelConfig, read_config
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.kinds import kind_of
from permmoe.data.preparation import with_matching_images
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.export.model_card import model_card
from permmoe.export.onnx_file import Patients, description, invented_patients, notices, require_new, require_same
from permmoe.export.portable import PortableModel
from permmoe.predict import TrainedModel
from permmoe.runtime.command_line import installed_version

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
WEIGHTS, SETTINGS = "models/model.ts", "configs/model.json"


def export_bundle(trained: TrainedModel, card: Mapping[str, Any], folder: Path) -> float:
    """Write the bundle into a new folder; returns the largest difference from our predictions, points.

    Raises ConfigurationError for a folder with content, PermmoeError where predictions differ by more than 1e-5 points.
    """
    require_new(folder)
    network = traced(trained)
    difference = require_same(trained.network, lambda patients: run_traced(network, patients), "the bundle's model")
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.jit.save(network, folder / WEIGHTS)
    (folder / SETTINGS).write_text(trained.config.canonical_json())
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata(trained, difference), indent=1))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference(trained.config), indent=1))
    (folder / "docs" / "README.md").write_text(model_card(card))
    return difference


def traced(trained: TrainedModel) -> torch.jit.ScriptModule:
    """The model as TorchScript, any number of visits at once."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        patients = invented_patients(trained.config, seed=1)
        trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
        return trace(PortableModel(trained.network), patients.all(), check_trace=False)


def run_traced(network: torch.jit.ScriptModule, patients: Patients) -> Float[np.ndarray, " visit"]:
    """What TorchScript predicts."""
    with torch.no_grad():
        found: np.ndarray = network(*patients.all()).numpy()
        return found


def predict_patient(
    weights: str,
    settings: str,
    images: Mapping[str, str],
    values: Mapping[str, float],
    baseline: float,
    are_prepared: bool = False,
) -> dict[str, Any]:
    """One patient's predicted change, from image files by modality and tables' numbers by column.

    Raises ConfigurationError where an input is unknown, broken, or was not prepared as the model's were; `are_prepared`
    says that images of which nothing is known were.
    """
    config = read_config(Path(settings), ModelConfig)
    known = (
        {m.name for m in config.modalities if kind_of(m).is_image},
        {c for m in config.modalities for c in m.columns},
    )
    for given, names, what in ((images, known[0], "image"), (values, known[1], "value")):
        if unknown := sorted(set(given) - names):
            raise ConfigurationError(f"unknown {what} {unknown[0]!r}; known: {', '.join(sorted(names)) or 'none'}")
    if not config.score.holds(baseline):
        raise ConfigurationError(f"baseline: {baseline} is not on the scale of {config.score.in_words}")
    tables = {
        m.name: tuple(float(values[c]) for c in m.columns)
        for m in config.modalities
        if m.columns and all(c in values for c in m.columns)
    }
    volumes = {name: Path(file) for name, file in images.items()}
    visit = Visit("patient", "", "", float(baseline), None, 0.0, volumes=volumes, tables=tables)
    table, unlike = with_matching_images(VisitTable((visit,)), config.modalities, are_trusted=are_prepared)
    with tempfile.TemporaryDirectory() as scratch:
        data, broken = VisitData.load(table, config, VolumeCache(Path(scratch)))
        for item in (*unlike, *broken):
            raise ConfigurationError(f"{item.modality or 'the visit'} cannot be used: {item.reason}")
        batch = data.batch(torch.arange(1))
    inputs = tuple(
        batch.inputs[m.name]
        if m.name in batch.inputs
        else torch.zeros(1, 1, *config.grid.shape) if kind_of(m).is_image else torch.zeros(1, len(m.columns))
        for m in config.modalities
    )  # fmt: skip
    patient = Patients(inputs, batch.observed, batch.baseline)
    load: Callable[[str], torch.jit.ScriptModule] = torch.jit.load
    change = float(run_traced(load(weights), patient)[0])
    used = [name for name, has in zip(config.names, batch.observed[0].tolist(), strict=True) if has]
    return {"change": change, "unit": config.score.in_words, "used": used}


def inference(config: ModelConfig) -> dict[str, Any]:
    """The configuration that `monai.bundle run` takes; `--images`, `--values` and `--baseline` fill it in."""
    return {
        "bundle_root": ".",
        "images": {},
        "values": {},
        "baseline": config.baseline_centre_points,
        "are_prepared": False,
        "answer": {
            "_target_": "permmoe.export.monai_bundle.predict_patient",
            "weights": f"$@bundle_root + '/{WEIGHTS}'",
            "settings": f"$@bundle_root + '/{SETTINGS}'",
            **{name: f"@{name}" for name in ("images", "values", "baseline", "are_prepared")},
        },
        "run": ["$print(@answer)"],
    }


def metadata(trained: TrainedModel, difference: float) -> dict[str, Any]:
    """What MONAI's schema asks for, with our own description of inputs and output below `permmoe`."""
    config, about = trained.config, description(trained, difference)
    volume = {
        "type": "image", "format": "magnitude", "num_channels": 1, "spatial_shape": list(config.grid.shape),
        "dtype": "float32", "value_range": [], "is_patch_data": False, "channel_def": {"0": "voxels on the MNI grid"},
    }  # fmt: skip
    numbers = {"type": "tuples", "format": "table", "num_channels": 1, "spatial_shape": [1], "dtype": "float32",
               "value_range": [], "is_patch_data": False, "channel_def": {"0": "columns"}}  # fmt: skip
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"permmoe": installed_version()},
        "name": "PerM-MoE",
        "task": f"Change in {config.score.name} from whichever of {', '.join(config.names)} a patient has",
        "description": " ".join(notices(trained)),
        "authors": "see docs/README.md",
        "copyright": "see docs/README.md",
        "intended_use": "Research; not for clinical decisions",
        "network_data_format": {
            "inputs": {m.name: volume if kind_of(m).is_image else numbers for m in config.modalities},
            "outputs": {"change": {**numbers, "channel_def": {"0": "change"}}},
        },
        "permmoe": about,
    }
