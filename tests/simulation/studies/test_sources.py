"""Where a study's visits come from."""

from __future__ import annotations

from pathlib import Path

from permmoe.config import parse_config
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import StudyConfig
from tests.support.tiny_study import QUIET

TINY = {"shape": [12, 14, 12], "spacing_mm": 16.0}
TABLES = {"modalities": [{"name": "t1", "kind": "tabular", "columns": ["UCSFFSX.ST29SV", "UCSFFSX.ST88SV"]}]}
STUDY = parse_config(
    {
        "name": "s",
        "description": "d",
        "data": {"synthetic": {"subjects": 13, "sites": 2, "grid": TINY, "release_tables": True}},
        "model": {"grid": TINY, "modalities": [{"name": "t1"}]},
        "methods": {
            "images": {"kind": "centralised", "label": "i"},
            "tables": {"kind": "centralised", "label": "t", "model": TABLES},
        },
    },
    StudyConfig,
    "study.yaml",
)


def test_a_modality_may_be_an_image_for_one_method_and_numbers_for_another(tmp_path: Path) -> None:
    assert [(m.name, m.kind) for m in STUDY.modalities] == [("t1", "volume"), ("t1", "tabular")]
    visits = prepare_data(STUDY.data, STUDY.model, tmp_path, 1, QUIET, STUDY.modalities).visits
    both = [visit for visit in visits if "t1" in visit.volumes and "t1" in visit.tables]
    assert len(both) > len(visits) / 2 and all(visit.observed(("t1",)) == ("t1",) for visit in visits)
    images = prepare_data(STUDY.data, STUDY.model, tmp_path, 1, QUIET).visits
    assert not any(visit.tables for visit in images)
