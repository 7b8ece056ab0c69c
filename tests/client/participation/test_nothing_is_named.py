"""A round on images whose patients, files and folders have names of their own: no log line, no message repeats one."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from flwr.app import Message, MessageType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from permmoe.config import ModelConfig
from permmoe.data.volumes import grid_affine
from permmoe.federated.modules import ModuleLayout
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from tests.support.site_messages import ask, instruction
from tests.support.tiny_federation import tiny_plan

PATIENT, IMAGE, FOLDER, TABLE = "Planted-Patient", "planted-scan-of", "planted-folder", "planted-table"
PLANTED = (PATIENT, IMAGE, FOLDER, TABLE)
MODEL = ModelConfig(
    modalities=(Modality(name="t1"),), grid={"shape": [7, 11, 9], "spacing_mm": 20.0}, tokens=1, width=10, heads=2,
    experts=3, top_k=2, expert_hidden=5, head_hidden=7, encoder={"cells": [2, 3, 2]},
)  # fmt: skip
PLAN = tiny_plan().model_copy(update={"model": MODEL})
HEADER = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,t1"
N = 23
WHOLE, TRUNCATED, AWAY, ODD = range(4)


def hospital(folder: Path) -> Path:
    """A site with an image of each patient: one truncated, one away, one whose values are unlike the others'."""
    images = folder / FOLDER
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N):
        file = images / f"{IMAGE}-{i}.nii.gz"
        voxels = np.zeros(MODEL.grid.shape, dtype=np.float32)
        voxels[1:-1, 1:-1, 1:-1] = rng.uniform(1, 2, (5, 9, 7))
        if i == ODD:
            voxels[3:, :, :] = 0
        nib.save(nib.Nifti1Image(voxels, grid_affine(MODEL.grid)), file)
        if i == TRUNCATED:
            file.write_bytes(file.read_bytes()[:60])
        if i == AWAY:
            file.unlink()
        rows.append(f"{PATIENT}-{i},north,bl,{1 + i % 3},{i % 4 / 2},24,{FOLDER}/{file.name}")
    rows.append(f"{PATIENT}-impossible,north,bl,25,0,24,")
    (folder / f"{TABLE}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    site = folder / "north.yaml"
    settings = {"name": "north", "manifest": f"{TABLE}.csv", "cache": "cache", "release": {"min_cell_count": 1}}
    site.write_text(yaml.safe_dump(settings))
    return site


def told(reply: Message) -> list[bytes]:
    """All that a reply would carry over the network."""
    if reply.has_content():
        return [part.deflate() for part in get_all_nested_objects(reply.content).values()]
    return [(reply.error.reason or "").encode()]


def round_of(site: Path, kind: str) -> Message:
    layout = ModuleLayout.of(PerMMoE(MODEL))
    weights = layout.flatten_all(make_model(MODEL, seed=PLAN.train.seed).state_dict())
    return ask(site, instruction(PLAN, weights=weights), kind)


def assert_nothing_planted(texts: list[bytes], records: list[logging.LogRecord]) -> None:
    lines = [record.getMessage() + (str(record.exc_info) if record.exc_info else "") for record in records]
    assert lines, "something was logged"
    for word in PLANTED:
        assert not any(word.encode() in text for text in texts), word
        assert not any(word in line for line in lines), word


def test_a_round_on_images_names_no_patient_and_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site = hospital(tmp_path)
    replies = [round_of(site, MessageType.TRAIN), round_of(site, MessageType.EVALUATE)]
    assert all(reply.has_content() for reply in replies), [reply.error for reply in replies if reply.has_error()]
    assert_nothing_planted([text for reply in replies for text in told(reply)], caplog.records)
    assert "left out: file not found (1)" in caplog.text
    assert "left out: score at the visit is no number on its scale (1)" in caplog.text
    listed = "".join(path.read_text() for path in (tmp_path / "cache").glob("quarantine-*.csv"))
    assert PATIENT in listed and IMAGE in listed, "the names were there to be found, in the file that stays"


@pytest.mark.parametrize(
    "fault",
    [
        lambda text: text.replace(f"{PATIENT}-5,", f"{PATIENT}-6,"),
        lambda text: text.replace(f"{FOLDER}/{IMAGE}-7", f"../{FOLDER}/{IMAGE}-7"),
        lambda text: text.replace(f"{PATIENT}-8,north,bl", f"{PATIENT}-8,north,bl,too,many"),
        lambda text: text.replace(",24,", ",36,", 1),
        lambda text: text.replace(FOLDER, f"{FOLDER}-away"),
        lambda text: text.replace("t1", f"{IMAGE}-t1", 1),
        lambda text: "",
    ],
    ids=["repeated", "outside", "cells", "horizons", "mount", "columns", "empty"],
)
def test_a_round_that_fails_names_no_patient_and_no_file(
    fault: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site = hospital(tmp_path)
    table = tmp_path / f"{TABLE}.csv"
    assert callable(fault)
    table.write_text(fault(table.read_text()))
    reply = round_of(site, MessageType.TRAIN)
    assert not reply.has_content()
    assert_nothing_planted(told(reply), caplog.records)
