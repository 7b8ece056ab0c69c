"""The visits that a site takes part with."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from flwr.app import MessageType

from permmoe.config import ModelConfig
from permmoe.data.volumes import grid_affine
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import Modality
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from tests.support.site_messages import ask, instruction, trained
from tests.support.tiny_federation import MODEL, tiny_plan, write_site


def test_a_site_may_keep_a_modality_to_itself(tmp_path: Path) -> None:
    reply = trained(write_site(tmp_path, "north", modalities=["clinical", "gene"]), instruction())
    assert "encoder/fluid" not in reply.updates and "encoder/gene" in reply.updates
    site = read_site(write_site(tmp_path, "north", modalities=["genes"]))
    with pytest.raises(ConfigurationError, match="did you mean 'gene'"):
        site_visits(site, MODEL)


def with_images(folder: Path, *, visits: int = 23) -> tuple[Path, ModelConfig]:
    """A site whose visits have a T1 beside their tables; the images are to be written."""
    path = write_site(folder, "north", visits=visits)
    lines = (folder / "north.csv").read_text().splitlines()
    rows = [f"{line},images/{i}.nii" for i, line in enumerate(lines[1:])]
    (folder / "north.csv").write_text("\n".join([f"{lines[0]},t1", *rows]) + "\n")
    grid = {"shape": [9, 11, 7], "spacing_mm": 16.0}
    return path, ModelConfig.model_validate(
        {**MODEL.model_dump(), "modalities": [*MODEL.modalities, Modality(name="t1")], "grid": grid}
    )


def write_images(folder: Path, model: ModelConfig, n: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(n):
        voxels = rng.uniform(1, 2, model.grid.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, grid_affine(model.grid)), folder / "images" / f"{i}.nii")


def test_a_mount_that_is_away_is_an_error_and_not_a_training_without_it(tmp_path: Path) -> None:
    path, model = with_images(tmp_path)
    with pytest.raises(DataError, match="none of 23 images of t1 can be opened; mount the images") as away:
        site_visits(read_site(path), model)
    assert "none of 23 images of t1" in away.value.for_log
    write_images(tmp_path, model, 3)
    assert site_visits(read_site(path), model).observed[:, -1].sum() == 3, "some that are missing are left out"


def test_a_site_that_leaves_a_modality_out_does_not_need_its_images(tmp_path: Path) -> None:
    _, model = with_images(tmp_path)
    path = tmp_path / "north.yaml"
    path.write_text(path.read_text() + "modalities: [clinical, fluid]\n")
    assert len(site_visits(read_site(path), model)) == 23


def test_the_sites_own_log_says_how_many_patients_have_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, model = with_images(tmp_path)
    write_images(tmp_path, model, 3)
    with caplog.at_level(logging.INFO, logger="permmoe.client"):
        site_visits(read_site(path), model)
    assert "23 patients: clinical 23, fluid 15, gene 15, t1 3" in caplog.text
    assert "left out: file not found (20)" in caplog.text
    assert "north-" not in caplog.text and str(tmp_path) not in caplog.text


def test_an_image_unlike_the_sites_others_is_counted_in_its_own_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, model = with_images(tmp_path, visits=40)
    write_images(tmp_path, model, 40)
    gradient = np.linspace(1, 2, int(np.prod(model.grid.shape)), dtype=np.float32).reshape(model.grid.shape)
    nib.save(nib.Nifti1Image(gradient, grid_affine(model.grid)), tmp_path / "images" / "7.nii")
    with caplog.at_level(logging.INFO, logger="permmoe.client"):
        site_visits(read_site(path), model)
    assert "1 images of t1 are unlike this site's others" in caplog.text


def test_each_round_says_how_many_patients_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="permmoe.client"):
        trained(write_site(tmp_path, "north"), instruction())
    [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("round ")]
    assert "trains on" in line and "patients: clinical" in line


def test_a_site_without_a_visit_says_so_in_a_sentence(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", visits=0)
    with pytest.raises(DataError, match="site north has no visit to take part with") as empty:
        site_visits(read_site(path), MODEL)
    assert empty.value.for_log == "no visit to take part with: the table has no rows"


def renamed(folder: Path, header: str) -> Path:
    """The manifest of a site whose table has its outcome under other names."""
    path = write_site(folder, "north")
    table = folder / "north.csv"
    table.write_text(table.read_text().replace("baseline_cdrsb,delta_cdrsb", header, 1))
    return path


def with_outcome(path: Path, **outcome: object) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"outcome": outcome}))
    return path


def test_a_hospitals_own_columns_train_the_same_model_as_the_usual_ones(tmp_path: Path) -> None:
    for name in ("usual", "own"):
        (tmp_path / name).mkdir()
    usual = trained(write_site(tmp_path / "usual", "north"), instruction())
    path = renamed(tmp_path / "own", "Summe,Veraenderung")
    own = trained(with_outcome(path, baseline="Summe", change="Veraenderung"), instruction())
    assert usual.updates
    for module, update in usual.updates.items():
        assert torch.equal(own.updates[module].weighted_delta, update.weighted_delta), module


def test_a_table_of_another_score_is_refused_in_a_sentence_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_outcome(renamed(tmp_path, "mmse,mmse_change"), name="MMSE", baseline="mmse", change="mmse_change")
    reply = ask(path, instruction())
    assert not reply.has_content() and reply.error.reason == "DataError"
    assert "the table holds MMSE, and the model predicts the change in CDR-SB" in caplog.text


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_study_of_another_horizon_than_the_tables_is_refused_in_a_sentence_for_the_log(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_site(tmp_path, "north")
    over_36 = tiny_plan().model_copy(update={"horizon_months": 36.0})
    reply = ask(path, instruction(over_36), kind)
    assert not reply.has_content() and reply.error.reason == "DataError"
    sentence = "the study predicts over 36 months, and outcomes here are 24 months after the visit: name a manifest of"
    assert sentence in caplog.text
    over_24 = tiny_plan().model_copy(update={"horizon_months": 24.0})
    assert ask(path, instruction(over_24), kind).has_content(), "the same horizon is no other"
    assert ask(path, instruction(tiny_plan()), kind).has_content(), "a study that declares none takes that of the table"


def test_raw_images_are_not_prepared_for_a_study_of_another_horizon(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north", prepare={"folder": "prepared"}))
    with pytest.raises(DataError, match="predicts over 18 months"):
        site_visits(site, MODEL, 18.0, progress=lambda *_: pytest.fail("something was prepared"))
    assert not (tmp_path / "prepared").exists()


def test_a_table_in_another_unit_is_refused_until_somebody_says_how_to_convert_it(tmp_path: Path) -> None:
    path = renamed(tmp_path, "sb,sb_change")
    columns = {"unit": "percent of 18 points", "baseline": "sb", "change": "sb_change"}
    with pytest.raises(DataError, match=r"say in 'outcome\.times' what the table's numbers are multiplied by"):
        site_visits(read_site(with_outcome(path, **columns)), MODEL)
    visits = site_visits(read_site(with_outcome(path, **columns, times=0.18)), MODEL).visits
    first = (tmp_path / "north.csv").read_text().splitlines()[1].split(",")
    assert visits.visits[0].baseline_cdrsb == pytest.approx(0.18 * float(first[3]))
