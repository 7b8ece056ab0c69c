"""How images were prepared is known from their sidecars, and a model reads only those that were prepared as its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from permmoe.config import ModelConfig
from permmoe.data.preparation import prepared_as, with_declared_preparation, with_matching_images
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError
from permmoe.modality import Modality
from permmoe.prepared import Prepared

OURS = Prepared(space="MNI152NLin2009aSym", by="permmoe 1")
PET = Prepared(space="MNI152NLin2009aSym", region="whole_cerebellum", by="permmoe 1")


def image(folder: Path, name: str, how: Prepared | None) -> Path:
    file = folder / f"{name}.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    if how is not None:
        (folder / f"{name}.json").write_text(json.dumps({"Prepared": how.model_dump(mode="json")}))
    return file


def visits(**volumes: Path) -> VisitTable:
    return VisitTable((Visit("a", "s", "1", 1.0, 0.5, 24.0, volumes=volumes),))


def test_a_sidecar_says_how_its_image_was_prepared(tmp_path: Path) -> None:
    assert prepared_as(image(tmp_path, "one", PET)) == PET
    assert prepared_as(image(tmp_path, "two", None)) is None
    (tmp_path / "two.json").write_text('{"Prepared": {"skull": "burnt"}}')
    assert prepared_as(tmp_path / "two.nii.gz") is None


def test_a_name_of_clinica_s_tells_its_space_and_region(tmp_path: Path) -> None:
    name = "sub-01_ses-M000_trc-18FAV45_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_suvr-cerebellumPons2_pet"
    how = prepared_as(image(tmp_path / "pet_linear", name, None))
    assert how == Prepared(skull="kept", space="MNI152NLin2009cSym", region="cerebellumPons2", by="clinica")


def test_a_model_that_declares_nothing_reads_every_image(tmp_path: Path) -> None:
    table = visits(t1=image(tmp_path, "x", None))
    kept, left_out = with_matching_images(table, [Modality(name="t1")])
    assert kept == table and not len(left_out)


def test_an_image_of_another_preparation_is_left_out_whoever_vouches_and_the_visit_goes_on(tmp_path: Path) -> None:
    modalities = [
        Modality(name="t1", prepared=OURS),
        Modality(name="amyloid", normalisation="suvr", prepared=PET.model_copy(update={"region": "pons"})),
    ]
    table = visits(t1=image(tmp_path, "t1", OURS), amyloid=image(tmp_path, "pet", PET))
    kept, left_out = with_matching_images(table, modalities, are_trusted=True)
    assert set(kept.visits[0].volumes) == {"t1"}
    assert [(item.modality, item.reason) for item in left_out] == [("amyloid", Reason.OTHER_PREPARATION)]


def test_an_image_of_another_spacing_is_left_out_where_the_model_tells_its_own(tmp_path: Path) -> None:
    fine = OURS.model_copy(update={"spacing_mm": 2.0})
    table = visits(t1=image(tmp_path, "t1", fine))
    for declared, is_read in ((OURS, True), (fine, True), (OURS.model_copy(update={"spacing_mm": 4.0}), False)):
        kept, left_out = with_matching_images(table, [Modality(name="t1", prepared=declared)])
        assert (kept == table) == is_read and [item.reason for item in left_out] == [Reason.OTHER_PREPARATION][is_read:]
    untold = visits(t1=image(tmp_path, "older", OURS))
    assert not with_matching_images(untold, [Modality(name="t1", prepared=fine)])[0].visits[0].volumes


def test_an_image_of_which_nothing_is_known_needs_somebody_to_vouch_for_it(tmp_path: Path) -> None:
    table, modalities = visits(t1=image(tmp_path, "t1", None)), [Modality(name="t1", prepared=OURS)]
    refused, left_out = with_matching_images(table, modalities)
    assert not refused.visits[0].volumes and [item.reason for item in left_out] == [Reason.UNKNOWN_PREPARATION]
    assert "--images-are-prepared" in Reason.UNKNOWN_PREPARATION.remedy
    assert with_matching_images(table, modalities, are_trusted=True)[0] == table


def test_a_model_declares_what_all_of_its_training_images_say(tmp_path: Path) -> None:
    table = visits(t1=image(tmp_path, "t1", OURS), flair=image(tmp_path, "flair", None))
    t1, flair = with_declared_preparation([Modality(name="t1"), Modality(name="flair")], table)
    assert t1.prepared == OURS and flair.prepared is None


def test_training_images_that_were_prepared_in_two_ways_are_refused_with_both(tmp_path: Path) -> None:
    two = VisitTable((
        *visits(t1=image(tmp_path, "one", OURS)),
        Visit("b", "s", "1", 1.0, 0.5, 24.0, volumes={"t1": image(tmp_path, "two", None)}),
    ))  # fmt: skip
    with pytest.raises(DataError, match="2 ways") as refused:
        with_declared_preparation([Modality(name="t1")], two)
    assert "not told" in str(refused.value) and "permmoe 1" in str(refused.value)


def test_a_declaration_changes_a_model_s_digest_and_its_absence_does_not() -> None:
    assert "prepared" not in ModelConfig().canonical_json()
    declared = ModelConfig(modalities=(Modality(name="t1", prepared=OURS),))
    assert declared.digest() != ModelConfig(modalities=(Modality(name="t1"),)).digest()
    assert ModelConfig.model_validate_json(declared.canonical_json()) == declared
