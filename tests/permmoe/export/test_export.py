"""A model for other programs predicts as ours does, in every combination, or is not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from permmoe.config import EncoderConfig, HospitalLine, ModelConfig, RidgeConfig, Score, VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import grid_affine
from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.export.monai_bundle import export_bundle, run_traced, traced
from permmoe.export.onnx_file import (
    LARGEST_DIFFERENCE,
    Patients,
    export_onnx,
    invented_patients,
    onnx_bytes,
    our_predictions,
    require_same,
    run_onnx,
)
from permmoe.export.portable import Pooling, PortableModel
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.predict import TrainedModel, load_model, predict
from permmoe.runtime.checkpoint import save_checkpoint

pytest.importorskip("onnxruntime")

GRID = VolumeGrid(shape=(11, 13, 17), spacing_mm=16.0)
MODALITIES = (
    Modality(name="t1"),
    Modality(name="tau", normalisation="suvr"),
    Modality(name="clinical", kind="tabular", columns=("a", "b", "c"), means=(1, 20, 3), deviations=(1, 2, 0.5)),
)
KINDS: dict[str, dict[str, Any]] = {
    "small": {},
    "with a ridge": {"ridge": RidgeConfig(cells=(2, 3, 4))},
    "at a hospital": {"at_hospital": HospitalLine(intercept=-0.7, slope=0.4)},
    "without a bank": {"bank": "none"},
    "FuseMoE": {"gate": "laplace", "bank": "unconditioned"},
    "Flex-MoE": {"routers": "shared", "fusion": "flex_moe", "head": "linear", "tokens": 3,
                 "encoder": EncoderConfig(cells=(5, 4, 3), token_map="slices")},
    "of convolutions, without bounds": {"encoder": EncoderConfig(kind="sfcn_lite"), "outcome_range": None,
                                        "grid": VolumeGrid(shape=(32, 33, 34), spacing_mm=5.0),
                                        "score": Score(name="x", lowest=None, highest=None)},
}  # fmt: skip


def network(**changes: Any) -> PerMMoE:
    """A model whose every parameter counts."""
    torch.manual_seed(3)
    config = ModelConfig(
        **{"modalities": MODALITIES, "grid": GRID, "encoder": EncoderConfig(cells=(5, 4, 3)), **changes}
    )
    model = PerMMoE(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if model.ridge:
            for block in model.ridge.moments.values():
                rows = torch.randn(200, max(len(block.left), len(block.right)), dtype=torch.float64)
                block.set_from(rows[:, : len(block.left)] + 0.1, rows[:, : len(block.right)] + 0.2)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_and_torchscript_predict_as_we_do_in_every_combination(kind: str) -> None:
    model = network(**KINDS[kind])
    trained = TrainedModel(model)
    onnx, script = run_onnx(onnx_bytes(trained), model.config), traced(trained)
    assert require_same(model, onnx, "it") <= LARGEST_DIFFERENCE
    assert require_same(model, lambda patients: run_traced(script, patients), "it") <= LARGEST_DIFFERENCE
    assert not any(module.training for module in model.modules())


def test_what_is_not_observed_counts_for_nothing_even_where_it_is_no_number() -> None:
    model = network(**KINDS["with a ridge"])
    onnx, patients = run_onnx(onnx_bytes(TrainedModel(model)), model.config), invented_patients(model.config, 5)
    spoilt = tuple(
        torch.where(patients.observed[:, j].view(-1, *[1] * (x.dim() - 1)), x, torch.nan)
        for j, x in enumerate(patients.inputs)
    )
    assert np.array_equal(onnx(Patients(spoilt, patients.observed, patients.baseline)), onnx(patients))


def test_one_visit_and_many_at_once_are_predicted_alike() -> None:
    model = network()
    onnx, patients = run_onnx(onnx_bytes(TrainedModel(model)), model.config), invented_patients(model.config, 5)
    one = Patients(tuple(x[3:4] for x in patients.inputs), patients.observed[3:4], patients.baseline[3:4])
    np.testing.assert_allclose(onnx(one)[0], onnx(patients)[3], atol=1e-6)


def test_predictions_stay_on_the_scale() -> None:
    model = network()
    with torch.no_grad():
        model.head.out.bias.fill_(30.0)
    patients = invented_patients(model.config, 5)
    found = PortableModel(model)(*patients.all())
    assert torch.allclose(patients.baseline + found, torch.tensor(18.0))
    np.testing.assert_allclose(found.detach().numpy(), our_predictions(model, patients), atol=1e-6)


def test_a_file_that_predicts_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    wrong = PortableModel.forward
    monkeypatch.setattr(PortableModel, "forward", lambda self, *given: wrong(self, *given) + 3e-5)
    with pytest.raises(PermmoeError, match="predicts otherwise"):
        export_onnx(TrainedModel(model), tmp_path / "onnx")
    with pytest.raises(PermmoeError, match="predicts otherwise"):
        export_bundle(TrainedModel(model), {}, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes", [{"bank": "translated", "ridge": RidgeConfig(cells=(2, 3, 4), share=0.0)}, {"bank": "clusters"}]
)
def test_a_model_that_completes_what_is_missing_from_what_was_observed_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be exported: the graph has no way to complete"):
        PortableModel(network(**changes))


@pytest.mark.parametrize(("n", "cells"), [((11, 13, 17), (5, 4, 3)), ((7, 5, 3), (7, 5, 3)), ((10, 6, 9), (5, 3, 2))])
def test_pooling_by_products_is_adaptive_pooling(n: tuple[int, int, int], cells: tuple[int, int, int]) -> None:
    volumes = torch.randn(2, 1, *n, dtype=torch.float64)
    torch.testing.assert_close(Pooling(n, cells)(volumes), F.adaptive_avg_pool3d(volumes, cells))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, folder = network(), tmp_path_factory.mktemp("saved") / "model"
    save_checkpoint(folder, model.state_dict(), {"model": model.config.model_dump(mode="json"), "is_synthetic": True})
    return folder


def test_a_stranger_runs_the_bundle_and_gets_what_permmoe_predict_says(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("fire")
    trained, bundle = load_model(saved), tmp_path / "bundle"
    export_bundle(trained, {"model": trained.config.model_dump(mode="json"), "is_synthetic": True}, bundle)
    voxels = np.random.default_rng(7).normal(500, 90, GRID.shape).astype(np.float32)
    voxels[:2] = 0
    image = tmp_path / "t1_space-MNI152.nii.gz"
    nib.save(nib.Nifti1Image(voxels, grid_affine(GRID)), image)
    ran = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "inference.json"),
         "--bundle_root", str(bundle), "--images", json.dumps({"t1": str(image)}), "--baseline", "2.5",
         "--values", json.dumps({"a": 1.0, "b": 21.5, "c": 2.0})],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    answer = eval(next(line for line in ran.stdout.splitlines() if line.startswith("{'change'")))
    visit = Visit("patient", "", "", 2.5, None, 0.0, volumes={"t1": image}, tables={"clinical": (1.0, 21.5, 2.0)})
    (ours,), _ = predict(trained, VisitTable((visit,)), VolumeCache(tmp_path / "cache"))
    assert answer["change"] == pytest.approx(ours.delta_cdrsb, abs=LARGEST_DIFFERENCE)
    assert answer["used"] == ["t1", "clinical"] == list(ours.used)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"].keys() == {"t1", "tau", "clinical"}
    assert "SYNTHETIC" in metadata["description"] and "SYNTHETIC" in (bundle / "docs" / "README.md").read_text()


def test_a_folder_with_content_stays_as_it_is(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    for write in (lambda m: export_onnx(m, tmp_path), lambda m: export_bundle(m, {}, tmp_path)):
        with pytest.raises(ConfigurationError, match="holds something"):
            write(load_model(saved))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permmoe.export.onnx_file.find_spec", lambda package: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'permmoe\[onnx\]'"):
        export_onnx(load_model(saved), tmp_path / "onnx")
