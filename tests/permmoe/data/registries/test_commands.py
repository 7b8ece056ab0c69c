"""`permmoe data oasis3`, `aibl` and `nacc`, from tables to a model that predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from permmoe.cli import app
from permmoe.config import read_model
from permmoe.data.manifest import read_manifest
from permmoe.data.outcome_columns import read_outcome
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import ADNI_MODALITIES
from tests.support.registry_files import write_image, write_lines

MODELS = Path(__file__).parents[4] / "configs" / "models"
SMALL = {"width": 8, "heads": 2, "experts": 3, "top_k": 2, "expert_hidden": 5, "head_hidden": 7}
MEMORY = {"name": "memory", "kind": "tabular", "columns": ["LDELTOTAL", "LIMMTOTAL"]}
MMSE = {"name": "MMSE", "lowest": 0, "highest": 30}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def config(folder: Path, **model: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": SMALL | model, "train": {"epochs": 1}}))
    return path


def aibl_extract(folder: Path, n: int = 17) -> Path:
    cdr, dx, mmse, memory = [], [], [], []
    for rid in range(1, n + 1):
        for code, day, shift in (("bl", "01/10/2007", 0), ("m18", "07/12/2008", 2)):
            visit = f"{rid},{1 + rid % 2},{code}"
            cdr.append(f"{visit},{day},0.5")
            dx.append(f"{visit},2")
            mmse.append(f"{visit},{day},{24 + rid % 5 - shift}")
            memory.append(f"{visit},{rid % 11},{3 + rid % 7}")
    write_lines(folder / "aibl_cdr_01-Jun-2018.csv", "RID,SITEID,VISCODE,EXAMDATE,CDGLOBAL", *cdr)
    write_lines(folder / "aibl_pdxconv_01-Jun-2018.csv", "RID,SITEID,VISCODE,DXCURREN", *dx)
    write_lines(folder / "aibl_mmse_01-Jun-2018.csv", "RID,SITEID,VISCODE,EXAMDATE,MMSCORE", *mmse)
    return write_lines(folder / "aibl_neurobat_01-Jun-2018.csv", "RID,SITEID,VISCODE,LIMMTOTAL,LDELTOTAL", *memory)


def test_another_score_goes_from_the_registry_to_a_model_that_predicts_it(tmp_path: Path) -> None:
    tables, out = aibl_extract(tmp_path / "aibl"), tmp_path / "manifest.csv"
    settings = config(tmp_path, modalities=[MEMORY], score=MMSE, outcome_range=[-30, 30])
    made = run("data", "aibl", "--tables", tables, "--score", "mmse", "--model", settings, "--out", out)
    assert made.exit_code == 0, made.output
    assert "change over 18 ± 6 months" in made.output and "AIBL1" in made.output
    outcome = tmp_path / "manifest.outcome.yaml"
    assert f"--outcome {outcome}" in made.output and "aibl_neurobat_01-Jun-2018.csv: LDELTOTAL" in made.output
    visits, _ = read_manifest(
        out, read_model(settings).modalities, score=read_model(settings).score, columns=read_outcome(outcome)
    )
    assert len(visits) == 17 and {v.delta_cdrsb for v in visits} == {-2.0}
    trained = run("train", out, "--config", settings, "--outcome", outcome, "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    assert "MMSE points" in trained.output and "CDR-SB" not in trained.output
    model = tmp_path / "run" / "model"
    one = run("predict", model, "--value", "LDELTOTAL=5", "--value", "LIMMTOTAL=8", "--baseline", "29.9")
    assert one.exit_code == 0 and "predicted change in MMSE" in one.output
    evaluated = run("evaluate", model, out, "--outcome", outcome, "--part", "all")
    assert evaluated.exit_code == 0 and "MMSE points" in evaluated.output
    inspected = run("data", "inspect", out, "--model", settings, "--outcome", outcome)
    assert inspected.exit_code == 0 and "MMSE, points" in inspected.output and "nothing reads" not in inspected.output
    with pytest.raises(DataError, match="the table holds CDR-SB, and the model predicts the change in MMSE"):
        raise run("train", out, "--config", settings, "--out", tmp_path / "other").exception or AssertionError
    with pytest.raises(ConfigurationError, match="give --baseline, the MMSE at the visit: a number from 0 to 30"):
        raise run("predict", model, "--value", "LDELTOTAL=5", "--baseline", "31").exception or AssertionError


def test_images_and_options_are_those_of_the_other_registries(tmp_path: Path) -> None:
    header = "OASISID,OASIS_session_label,days_to_visit,CDRSUM,CDRTOT,dx1"
    rows = [f"OAS30001,OAS30001_UDSb4_d{day:04d},{day},{sb},0.5,AD Dementia" for day, sb in ((0, 1), (400, 2))]
    tables = write_lines(tmp_path / "t" / "OASIS3_UDSb4_cdr.csv", header, *rows)
    image = write_image(tmp_path / "i", "OAS30001", "d0100")
    out = tmp_path / "manifest.csv"
    given = ("data", "oasis3", "--tables", tables, "--images", tmp_path / "i", "--out", out)
    made = run(*given, "--horizon", 12, "--window", 3)
    assert made.exit_code == 0, made.output
    visits, _ = read_manifest(out, ADNI_MODALITIES)
    assert [(v.subject_id, v.delta_cdrsb, v.horizon_months, v.volumes["t1"]) for v in visits] == [
        ("OAS30001", 1.0, 12.0, image)
    ]
    assert "OAS30001" not in made.output, "counts are shown, and never a patient"
    assert not (tmp_path / "manifest.outcome.yaml").exists(), "CDR-SB needs no mapping"
    assert oct((tmp_path / "manifest.quarantine.csv").stat().st_mode)[-3:] == "600"
    lost = run(*given, "--image-window", 50)
    assert isinstance(lost.exception, DataError)
    assert "1 lost: no modality near a visit with an accepted diagnosis and a score" in str(lost.exception)
    wrong = run(*given, "--mci", "forms")
    assert isinstance(wrong.exception, ConfigurationError) and "did you mean 'form'" in str(wrong.exception)


def test_nacc_tables_alone_make_a_manifest_whose_sites_are_its_centres(tmp_path: Path) -> None:
    header = "NACCID,NACCADC,FORMVER,VISITMO,VISITDAY,VISITYR,NACCVNUM,NACCAGE,CDRSUM,NACCMMSE,NACCUDSD"
    rows = [
        f"NACC00000{n},{100 + n % 2},3,{month},1,{year},{k},70,{n + k / 2},27,3"
        for n in range(1, 8)
        for k, month, year in ((1, 2, 2015), (2, 3, 2016), (3, 1, 2017))
    ]
    tables = write_lines(tmp_path / "t" / "investigator_nacc71.csv", header, *rows)
    settings = config(tmp_path, modalities=[{"name": "tests", "kind": "tabular", "columns": ["NACCMMSE"]}])
    out = tmp_path / "manifest.csv"
    made = run("data", "nacc", "--tables", tables, "--model", settings, "--out", out)
    assert made.exit_code == 0, made.output
    visits, _ = read_manifest(out, read_model(settings).modalities)
    assert visits.sites == ("NACC100", "NACC101") and {v.delta_cdrsb for v in visits} == {1.0}


def test_the_models_that_the_page_names_find_every_column_in_tables_of_their_registry(tmp_path: Path) -> None:
    """The page's own command for each registry, with one subject who has everything."""
    write_lines(
        tmp_path / "oasis3" / "OASIS3_UDSb4_cdr.csv",
        "OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRSUM,CDRTOT,dx1",
        "OAS30001,OAS30001_UDSb4_d0000,0,65.2,29,0.5,0.5,AD Dementia",
    )
    write_lines(
        tmp_path / "oasis3" / "OASIS3_Freesurfer_output.csv",
        "Subject,MR_session,FS QC Status,IntraCranialVol,TOTAL_HIPPOCAMPUS_VOLUME",
        "OAS30001,OAS30001_MR_d0129,Passed,1500000,7000",
    )
    write_lines(
        tmp_path / "oasis3" / "OASIS3_amyloid_centiloid.csv",
        "subject_id,oasis_session_id,tracer,Centiloid_fSUVR_TOT_CORTMEAN",
        "OAS30001,OAS30001_PIB_d0200,PIB,31.5",
    )
    visit = "NACCID,NACCADC,FORMVER,VISITMO,VISITDAY,VISITYR,NACCVNUM,NACCAGE,CDRSUM,NACCUDSD"
    write_lines(
        tmp_path / "nacc" / "investigator_nacc71.csv",
        f"{visit},SEX,EDUC,NACCNE4S,ANIMALS,TRAILA,BILLS,SHOPPING,REMDATES,TRAVEL",
        "NACC000001,186,3,2,1,2015,1,70,1.5,3,1,16,1,17,40,0,1,2,0",
    )
    write_lines(
        tmp_path / "nacc" / "investigator_scan_amyloidpetgaain_nacc71.csv",
        "NACCID,SCANDATE,CENTILOIDS",
        "NACC000001,2015-03-01,55.0",
    )
    aibl_extract(tmp_path / "aibl", n=1)
    write_lines(tmp_path / "aibl" / "aibl_ptdemog_01-Jun-2018.csv", "RID,SITEID,VISCODE,PTDOB", "1,2,bl,/1936")
    for name, score in (("oasis3", "cdr-sb"), ("nacc", "cdr-sb"), ("aibl", "mmse")):
        model, out = MODELS / f"{name}.yaml", tmp_path / f"{name}.csv"
        made = run("data", name, "--tables", tmp_path / name, "--score", score, "--model", model, "--out", out)
        assert made.exit_code == 0, (made.output, made.exception)
        settings = read_model(model)
        outcome = out.with_suffix(".outcome.yaml")
        columns = read_outcome(outcome if outcome.exists() else None)
        (found,), left_out = read_manifest(
            out, settings.modalities, need_target=False, score=settings.score, columns=columns
        )
        assert found.observed(settings.names) == settings.names, name
        assert not left_out
