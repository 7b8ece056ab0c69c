"""Tables found by their columns, in the forms in which people save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.data.registries.csv_tables import header_of, newest_with, read_columns, tables_under
from permmoe.errors import DataError


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("A,Score B,C\n1,1.5,x\n\n2,,y\n", "utf-8"),
        ("A,Score B,C\r\n1,1.5,x\r\n2,,y\r\n", "utf-8-sig"),
        ('"A","score b","C"\n"1","1.5","x"\n"2","","y"\n', "utf-8"),
        ("A;Score B;C\n1;1,5;x\n2;;y\n", "utf-8"),
        ("A\tSCOREB\tC\n1\t1,5\tx\n2\t\ty\n", "utf-16"),
    ],
    ids=["plain", "mark", "quoted", "semicolons", "utf-16"],
)
def test_a_table_is_read_however_it_was_saved(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    table = read_columns(path, ["score b", "absent"])
    assert [row for _, row in table.rows] == [{"SCOREB": "1.5"}, {"SCOREB": ""}]
    assert table.has("A", "C") and not table.has("absent")


def test_the_newest_table_that_has_the_columns_is_found_by_the_date_or_release_of_its_name(tmp_path: Path) -> None:
    for name in ("b.csv", "aibl_cdr_01-Jun-2018.csv", "aibl_cdr_28-Apr-2015.csv", "x/aibl_cdr_02-Jun-2018.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("RID,VISCODE\n")
    (tmp_path / "aibl_cdr_09-Jun-2030.csv").write_text("RID\n")
    paths = tables_under(tmp_path)
    newest = newest_with(paths, "rid", "VisCode")
    assert newest is not None and newest.name == "aibl_cdr_02-Jun-2018.csv"
    assert newest_with(paths, "RID", "PTID") is None


def test_tables_of_subjects_are_not_those_of_the_registry(tmp_path: Path) -> None:
    (tmp_path / "sub-OAS30001").mkdir()
    (tmp_path / "sub-OAS30001" / "t.csv").write_text("RID\n")
    with pytest.raises(DataError, match="no CSV table in"):
        tables_under(tmp_path)


def test_rows_shorter_than_their_header_end_in_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("A,B,C\n1\n")
    assert [row for _, row in read_columns(tmp_path / "t.csv", "BC").rows] == [{"B": "", "C": ""}]
    (tmp_path / "empty.csv").write_text("")
    assert header_of(tmp_path / "empty.csv") == ()
