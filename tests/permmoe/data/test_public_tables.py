"""Public tables become visits: nothing known later is a predictor, and no unknown outcome is made up."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import pytest

from permmoe.data.public_tables import TABLES, table_visits, time_lost
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import Modality

BUNDLED = ("diabetes", "breast-cancer")


def tabular(**groups: Iterable[str]) -> tuple[Modality, ...]:
    return tuple(Modality(name=name, kind="tabular", columns=tuple(columns)) for name, columns in groups.items())


def needs(name: str) -> None:
    if name not in BUNDLED:
        pytest.importorskip("sksurv")


@pytest.mark.parametrize("name", TABLES)
def test_table_has_the_patients_that_it_documents_and_an_outcome_of_a_few_units(name: str) -> None:
    needs(name)
    columns = TABLES[name].read()
    assert len(columns.values) == len(columns.outcome) == TABLES[name].patients
    assert 0.4 < np.nanstd(columns.outcome) < 5
    assert all(np.issubdtype(kind, np.number) for kind in columns.values.dtypes)


@pytest.mark.parametrize("name", TABLES)
def test_no_column_tells_the_outcome(name: str) -> None:
    needs(name)
    columns = TABLES[name].read()
    known = ~np.isnan(columns.outcome)
    for column in columns.values:
        values = columns.values[column].to_numpy(float)[known]
        measured = ~np.isnan(values)
        if values[measured].std():
            assert abs(np.corrcoef(values[measured], columns.outcome[known][measured])[0, 1]) < 0.85, column


def test_columns_are_grouped_as_the_modalities_say_and_in_their_order() -> None:
    visits, quarantine = table_visits("diabetes", tabular(body=["bp", "bmi"], person=["age"]))
    first = visits.visits[0]
    assert len(visits) == 442 and not quarantine.counts()
    assert first.tables == {"body": (101.0, 32.1), "person": (59.0,)}
    assert (first.baseline_cdrsb, first.delta_cdrsb, first.horizon_months) == (0.0, 1.51, 12.0)


def test_a_patient_lacks_the_modality_of_which_a_column_was_not_measured() -> None:
    needs("flchain")
    visits, quarantine = table_visits("flchain", tabular(person=["age"], kidney=["creatinine"]))
    without = [v for v in visits if "kidney" not in v.tables]
    assert len(visits) + len(quarantine.items) == 7874 and 1000 < len(without) < 1350
    assert all(set(v.tables) == {"person"} for v in without)


def test_who_has_none_of_the_modalities_or_no_known_outcome_is_itemised() -> None:
    needs("flchain")
    visits, quarantine = table_visits("flchain", tabular(kidney=["creatinine"]))
    assert set(quarantine.counts()) == {
        "outcome unknown: lost from sight before the horizon",
        "no modality that can be used",
    }
    assert all(v.delta_cdrsb is not None and v.tables for v in visits)


def test_heart_attack_table_has_no_length_of_stay_and_everyone_is_followed_for_a_year() -> None:
    needs("whas500")
    columns = TABLES["whas500"].read()
    assert "los" not in columns.values and not np.isnan(columns.outcome).any()


def test_time_lost_is_what_is_left_of_the_horizon_after_the_event() -> None:
    time = np.array([2.0, 7.0, 5.0, 3.0])
    has_event = np.array([True, True, False, False])
    np.testing.assert_array_equal(time_lost(time, has_event, 5.0), [3.0, 0.0, 0.0, np.nan])


@pytest.mark.parametrize(
    ("table", "modalities", "message"),
    [
        ("diabetis", tabular(body=["bmi"]), "'diabetis'; did you mean 'diabetes'"),
        ("diabetes", tabular(body=["bni"]), "no column 'bni'; did you mean 'bmi'"),
        ("diabetes", (Modality(name="t1"),), "has no images: modality t1"),
    ],
)
def test_a_mistake_names_the_nearest_word(table: str, modalities: tuple[Modality, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        table_visits(table, modalities)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sksurv.datasets", None)
    with pytest.raises(DataError, match=r"scikit-survival, which is not installed.*3\.11 or 3\.12.*\[survival\]"):
        table_visits("whas500", tabular(person=["age"]))
