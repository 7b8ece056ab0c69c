"""Several models as one: their mean, the spread of a mixture, and everything that a single model can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import permmoe.resumable_fit as resumable_fit
from permmoe.calibration.calibrate import calibrate
from permmoe.calibration.calibration import Calibration
from permmoe.cli import app
from permmoe.config import RunConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.manifest import read_manifest
from permmoe.data.outcomes import Outcomes
from permmoe.ensemble import Ensemble, mixture_spread
from permmoe.errors import ConfigurationError, DataError
from permmoe.evaluation.combinations import combination_predictions
from permmoe.explanation.reasons import explain
from permmoe.export.model_card import model_card
from permmoe.export.monai_bundle import run_traced, traced
from permmoe.export.onnx_file import require_same
from permmoe.model import PerMMoE
from permmoe.predict import TrainedModel, load_model, predict
from permmoe.recalibrate import calibrate_model
from permmoe.runs import load_visits, train_run, trained_config
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.training.fit import EpochReport
from permmoe.training.seeds import make_model, member_seed
from tests.permmoe.test_runs import CONFIG, Killed
from tests.support.tiny_federation import MODEL, write_site

SETTINGS = CONFIG.model_copy(
    update={"members": 3, "model": MODEL.model_copy(update={"spread": "gaussian"}),
            "train": CONFIG.train.model_copy(update={"epochs": 2})}
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, "north", visits=90)
    return folder / "north.csv"


def trained(manifest: Path, out: Path, config: RunConfig = SETTINGS, **options: object) -> Path:
    train_run(manifest, out, config, cache=manifest.parent / "cache", **options)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="module")
def run(manifest: Path) -> Path:
    return trained(manifest, manifest.parent / "run")


def member(config: RunConfig, number: int) -> RunConfig:
    """The settings of one member trained by itself."""
    own = config.train.model_copy(update={"seed": member_seed(config.train.seed, number)})
    return config.model_copy(update={"members": 1, "train": own})


def test_an_ensemble_is_the_mean_of_the_same_models_trained_one_by_one(
    manifest: Path, run: Path, tmp_path: Path
) -> None:
    alone = [load_model(trained(manifest, tmp_path / str(n), member(SETTINGS, n)) / "model") for n in range(3)]
    together = load_model(run / "model")
    data, _ = load_visits(manifest, SETTINGS, manifest.parent / "cache")
    each = np.stack([combination_predictions(one.network, data) for one in alone])
    np.testing.assert_allclose(combination_predictions(together.network, data), each.mean(0), atol=1e-6)
    assert np.nanmax(np.ptp(each, axis=0)) > 0.01, "members differ"


def test_the_spread_is_that_of_a_mixture(run: Path, manifest: Path) -> None:
    network = load_model(run / "model").network
    assert isinstance(network, Ensemble)
    data, _ = load_visits(manifest, SETTINGS, manifest.parent / "cache")
    with torch.no_grad():
        whole = network(data.batch(torch.arange(8)))
        parts = [one(data.batch(torch.arange(8))) for one in network.models]
    assert whole.spread is not None
    spreads, means = (torch.stack([getattr(p, name) for p in parts], 1) for name in ("spread", "prediction"))
    draws = means[:, :, None] + spreads[:, :, None] * torch.randn(8, 3, 200_000, generator=torch.manual_seed(0))
    assert torch.allclose(whole.spread, draws.flatten(1).std(1), rtol=0.01)
    assert torch.equal(mixture_spread(spreads[:, :1], means[:, :1]), spreads[:, 0].square().sqrt())
    # Of members that agree on the mean and not on the spread: variances are averaged, not SDs.
    apart = mixture_spread(torch.tensor([[3.0, 5.0, 11.0]]), torch.full((1, 3), 7.0))
    assert float(apart) == pytest.approx(((9 + 25 + 121) / 3) ** 0.5)


def test_a_prediction_tells_its_members_and_is_in_their_middle(run: Path, manifest: Path, tmp_path: Path) -> None:
    visits, _ = read_manifest(manifest, MODEL.modalities)
    model = load_model(run / "model")
    found, _ = predict(model, visits, VolumeCache(tmp_path), are_trusted=True)
    assert all(len(p.by_member) == 3 and min(p.by_member) < p.delta_cdrsb < max(p.by_member) for p in found)
    assert all(p.intervals for p in found)
    data, _ = load_visits(manifest, SETTINGS, manifest.parent / "cache")
    require_calibrated_as_an_ensemble(model, data.part("validation"), model.calibration)


def require_calibrated_as_an_ensemble(model: TrainedModel, data: VisitData, found: Calibration | None) -> None:
    """It holds the errors of the mean over the mixture's spread, and not those of any member."""
    assert isinstance(model.network, Ensemble) and found is not None
    whole, *members = (calibrate(one, data, source="") for one in (model.network, *model.network.models))
    assert whole is not None and found.scores == whole.scores
    assert all(member is not None and member.scores != found.scores for member in members)


def test_what_is_shown_of_an_ensemble_says_so(run: Path, manifest: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(manifest.read_text().splitlines(keepends=True)[:4]))
    shown = CliRunner().invoke(
        app, ["predict", str(run / "model"), "--manifest", str(few), "--images-are-prepared",
              "--out", str(tmp_path / "p.csv"), "--report", str(tmp_path / "pages")]
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert "the mean of 3 models, which predict " in shown.output
    header, first = (tmp_path / "p.csv").read_text().splitlines()[:2]
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["lowest_member"]) < float(row["predicted_change"]) < float(row["highest_member"])
    page = next((tmp_path / "pages").glob("*.html")).read_text()
    assert "by 3 models, trained from different random starts, which say" in page
    _, card = load_checkpoint(run / "model")
    assert "| models, whose predictions are averaged | 3 |" in model_card(card)


def test_reasons_of_an_ensemble_add_up_to_its_prediction_and_are_the_mean_of_its_members(
    run: Path, manifest: Path, tmp_path: Path
) -> None:
    model, cache = load_model(run / "model"), VolumeCache(tmp_path)
    visits, _ = read_manifest(manifest, MODEL.modalities)
    [found], _ = predict(model, replace(visits, visits=visits.visits[:1]), cache, are_trusted=True)
    reasons = explain(model, visits.visits[0], found, cache)
    assert reasons.added.prediction == pytest.approx(found.delta_cdrsb, abs=1e-5)
    assert isinstance(model.network, Ensemble)
    # Held against an expectation at another score than the visit's, each of whose parts is linear in the prediction.
    outcomes = Outcomes.model_validate(load_checkpoint(run / "model")[1]["outcomes"])
    assert abs(outcomes.mean_score - visits.visits[0].baseline_cdrsb) > 0.3
    whole, *each = (
        explain(TrainedModel(one), visits.visits[0], found, cache, outcomes).added
        for one in (model.network, *model.network.models)
    )
    assert whole.score == pytest.approx(np.mean([one.score for one in each]), abs=1e-5)
    for name, share in whole.modalities.items():
        assert share == pytest.approx(np.mean([one.modalities[name] for one in each]), abs=1e-5)


def test_an_exported_ensemble_predicts_the_same(run: Path) -> None:
    trained_model = load_model(run / "model")
    graph = traced(trained_model)
    assert require_same(trained_model.network, lambda patients: run_traced(graph, patients), "the bundle") < 1e-5


def test_a_run_that_is_killed_in_the_second_member_goes_on_there(manifest: Path, run: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def die(number: int, report: EpochReport) -> None:
        seen.append((number, report.epoch))
        if seen[-1] == (1, 0):
            raise Killed

    with pytest.raises(Killed):
        trained(manifest, tmp_path / "run", on_epoch=die)
    trained(manifest, tmp_path / "run", on_epoch=lambda number, report: seen.append((number, report.epoch)))
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    for file in ("model/tensors.safetensors", "model/card.json", "results.csv", "member-3/learning.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (run / file).read_bytes()


def test_a_single_model_grows_into_an_ensemble_and_never_shrinks(
    manifest: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(manifest, tmp_path / "run", SETTINGS.model_copy(update={"members": 1}))
    saved: list[Path] = []
    save = resumable_fit.save_checkpoint
    monkeypatch.setattr(
        resumable_fit, "save_checkpoint", lambda folder, *rest: (saved.append(folder), save(folder, *rest))
    )
    trained(manifest, tmp_path / "run")
    assert {folder.parent.name for folder in saved} == {"member-2", "member-3"}, "the first is there already"
    assert (tmp_path / "run/model/tensors.safetensors").read_bytes() == (run / "model/tensors.safetensors").read_bytes()
    with pytest.raises(ConfigurationError, match="more than 2 member"):
        trained(manifest, tmp_path / "run", SETTINGS.model_copy(update={"members": 2}))


def test_an_ensemble_is_calibrated_with_other_patients(run: Path, manifest: Path, tmp_path: Path) -> None:
    write_site(tmp_path, "south", visits=40)
    own = calibrate_model(run / "model", tmp_path / "south.csv", tmp_path / "own", alone=True, cache=tmp_path / "cache")
    found = own.calibration
    assert found and found.visits[0] == 40 and found.scale == "spread"
    data, _ = load_visits(tmp_path / "south.csv", SETTINGS, tmp_path / "cache")
    require_calibrated_as_an_ensemble(load_model(tmp_path / "own"), data, found)


def test_one_member_is_a_single_model_and_changes_no_digest(manifest: Path, tmp_path: Path) -> None:
    one = RunConfig(members=1)
    assert "members" not in json.loads(one.canonical_json()) and one.digest() == RunConfig().digest()
    out = trained(manifest, tmp_path / "run", SETTINGS.model_copy(update={"members": 1}))
    _, card = load_checkpoint(out / "model")
    assert "members" not in card and isinstance(load_model(out / "model").network, PerMMoE)
    assert trained_config(out / "model").members == 1


def test_members_of_two_configurations_are_no_ensemble() -> None:
    other = MODEL.model_copy(update={"width": MODEL.width * 2})
    with pytest.raises(ValueError, match="one configuration"):
        Ensemble([make_model(MODEL, 0), make_model(other, 0)])
    with pytest.raises(ValueError, match="one configuration"):
        Ensemble([])


@pytest.mark.parametrize("members", [0, 21, "3", 2.5, None])
def test_a_card_with_a_strange_number_of_members_is_refused(run: Path, tmp_path: Path, members: object) -> None:
    state, card = load_checkpoint(run / "model")
    save_checkpoint(tmp_path / "model", state, card | {"members": members})
    with pytest.raises(DataError, match="names no number of members"):
        load_model(tmp_path / "model")
