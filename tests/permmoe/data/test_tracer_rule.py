"""PET of different tracers is kept apart: a table that mixes them is named, and a model reads those that it lists."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from permmoe.cli import app
from permmoe.data.images import FoundImage
from permmoe.data.index_visits import Subject, select_index_visits
from permmoe.data.manifest import read_manifest, write_manifest
from permmoe.data.preparation import with_declared_preparation, with_matching_images
from permmoe.data.reasons import Reason
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.data.tracer_rule import mixed_tracers, tracer_of
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import ADNI_MODALITIES, Modality

AMYLOID, TAU = ADNI_MODALITIES[2:]
NUMBERS = Modality(name="tau_regions", kind="tabular", columns=("a", "b"))


def pet(folder: Path, name: str, **said: str) -> Path:
    file = folder / f"{name}.nii.gz"
    file.write_bytes(b"")
    if said:
        (folder / f"{name}.json").write_text(json.dumps(said))
    return file


def visit(subject: str, modality: str = "tau", **known: object) -> Visit:
    return Visit(subject, "s", "1", 1.0, 0.5, 24.0, **known)  # type: ignore[arg-type]


def mixed(folder: Path) -> VisitTable:
    """Tau PET of three tracers: one told by its name, one by its sidecar, two by the table; one is not told."""
    return VisitTable(
        (
            visit("a", volumes={"tau": pet(folder, "sub-a_trc-18FMK6240_pet")}),
            visit("b", volumes={"tau": pet(folder, "scan_b", TracerName="[18F]Flortaucipir")}),
            visit("c", volumes={"tau": pet(folder, "scan_c")}, tracers={"tau": "PI2620"}),
            visit("d", volumes={"tau": pet(folder, "scan_d")}, tracers={"tau": "PI2620"}),
            visit("e", volumes={"tau": pet(folder, "scan_e")}),
        )
    )


def test_a_tracer_is_told_by_table_name_or_sidecar(tmp_path: Path) -> None:
    assert [tracer_of(v, "tau") for v in mixed(tmp_path)] == ["MK6240", "AV1451", "PI2620", "PI2620", ""]
    assert tracer_of(visit("f", tracers={"tau": "PI2620"}), "tau") == "", "a visit without PET has no tracer"


@pytest.mark.parametrize("modality", [AMYLOID, TAU], ids=["amyloid", "tau"])
def test_a_table_of_several_tracers_is_named_with_counts_until_they_are_listed(
    tmp_path: Path, modality: Modality
) -> None:
    tracers = ("AV45", "FBB") if modality is AMYLOID else ("AV1451", "MK6240")
    table = [
        visit(str(i), volumes={modality.name: pet(tmp_path, f"sub-{i}_trc-{tracers[i % 3 > 0]}_pet")}) for i in range(5)
    ]
    said = mixed_tracers(table, [modality])[modality.name]
    assert f"uptake ratios cannot be compared: {tracers[1]} 3, {tracers[0]} 2; list under 'tracers'" in said
    assert not mixed_tracers(table, [modality.model_copy(update={"tracers": tracers})])
    assert not mixed_tracers(table[:1], [modality])


def test_pet_of_a_tracer_that_is_not_listed_is_left_out_and_what_nothing_tells_is_read(tmp_path: Path) -> None:
    table = mixed(tmp_path)
    kept, left_out = with_matching_images(table, [Modality(name="tau", tracers=("FTP",))])
    assert [v.subject_id for v in kept if v.volumes] == ["b", "e"]
    assert [(item.subject_id, item.reason) for item in left_out] == [(s, Reason.UNREAD_TRACER) for s in "acd"]
    everything, none = with_matching_images(table, [TAU])
    assert everything == table and not len(none)


def test_numbers_of_another_tracer_are_left_out_like_images() -> None:
    tracers = ("AV1451", "MK6240")
    rows = [visit(t, tables={"tau_regions": (1.0, 2.0)}, tracers={"tau_regions": t}) for t in tracers]
    table = VisitTable(tuple(rows))
    assert "AV1451 1, MK6240 1" in mixed_tracers(table, [NUMBERS])["tau_regions"]
    kept, left_out = with_matching_images(table, [NUMBERS.model_copy(update={"tracers": ("AV1451",)})])
    assert [v.subject_id for v in kept if v.tables] == ["AV1451"] and [i.file for i in left_out] == [""]


def test_a_model_lists_the_tracers_that_it_was_trained_on_if_all_are_told(tmp_path: Path) -> None:
    table = mixed(tmp_path).visits
    [trained] = with_declared_preparation([TAU], table[:4])
    assert trained.tracers == ("AV1451", "MK6240", "PI2620")
    assert with_declared_preparation([TAU], table) == (TAU,)
    [listed] = with_declared_preparation([TAU.model_copy(update={"tracers": ("PI2620",)})], table)
    assert listed.tracers == ("PI2620",)


def test_listed_tracers_are_called_by_their_canonical_names_and_an_unknown_one_is_refused() -> None:
    assert Modality(name="amyloid", tracers=("florbetapir", "18FAV45", "Neuraceq")).tracers == ("AV45", "FBB")
    with pytest.raises(ValueError, match="no tracer 'AV46' is known; did you mean 'AV45'"):
        Modality(name="amyloid", tracers=("AV46",))
    assert "tracers" not in Modality(name="amyloid").model_dump(), "digests of older studies stay valid"


def test_a_manifest_tells_the_tracer_in_a_column_of_its_own(tmp_path: Path) -> None:
    table = VisitTable((visit("a", tables={"tau_regions": (1.0, 2.0)}, tracers={"tau_regions": "PI2620"}),))
    write_manifest(table, tmp_path / "m.csv", [NUMBERS])
    assert read_manifest(tmp_path / "m.csv", [NUMBERS])[0] == table
    (tmp_path / "m.csv").write_text((tmp_path / "m.csv").read_text().replace("PI2620", "[18F]MK-6240"))
    assert read_manifest(tmp_path / "m.csv", [NUMBERS])[0].visits[0].tracers == {"tau_regions": "MK6240"}
    write_manifest(VisitTable((visit("a", tables={"tau_regions": (1.0, 2.0)}),)), tmp_path / "m.csv", [NUMBERS])
    assert "tracer" not in (tmp_path / "m.csv").read_text()


def test_an_index_visit_is_chosen_without_images_that_the_model_does_not_read(tmp_path: Path) -> None:
    days = [date(2010, 1, 1), date(2011, 1, 1)]
    images = [
        FoundImage("a", str(i), "tau", tmp_path / f"{i}.nii", True, day, tracer)
        for i, (day, tracer) in enumerate(zip(days, ("MK6240", "AV1451"), strict=True))
    ]
    subject = Subject("a", "s", [Assessment(day, 1.0, "MCI", "") for day in days], images)
    listed = TAU.model_copy(update={"tracers": ("AV1451",)})
    found = select_index_visits([subject], TargetRule(), [listed], without_site=Reason.NO_PTID)
    assert [v.session for v in found.visits] == ["1"]
    assert "PET images of tracers that the model does not read, left aside: MK6240 1" in found.notes


def test_inspect_names_a_mixture_and_itemises_what_a_model_does_not_read(tmp_path: Path) -> None:
    table, manifest = mixed(tmp_path), tmp_path / "m.csv"
    write_manifest(table, manifest, [TAU])
    shown = inspected(manifest, model(tmp_path))
    assert "cannot be compared: PI2620 2, AV1451 1, MK6240 1" in shown
    shown = inspected(manifest, model(tmp_path, tracers=["MK6240"]))
    assert "cannot be compared" not in shown and str(Reason.UNREAD_TRACER) in shown


def inspected(manifest: Path, model: str) -> str:
    shown = CliRunner().invoke(app, ["data", "inspect", str(manifest), "--model", model])
    assert shown.exit_code == 0, shown.output
    return shown.output


def model(folder: Path, **tau: object) -> str:
    path = folder / "model.yaml"
    path.write_text(json.dumps({"modalities": [{"name": "tau", "normalisation": "suvr", **tau}]}))
    return str(path)
