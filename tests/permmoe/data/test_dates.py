"""A column of dates is read in one way, which all of its values decide, or not at all."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from permmoe.data.dates import date_reader
from permmoe.errors import DataError

DAYS = [date(2019, 1, 1) + timedelta(days=37 * i) for i in range(40)]
FORMS = {
    "ISO": "%Y-%m-%d",
    "ISO with a time": "%Y-%m-%d 10:30:00.0",
    "ISO with a T": "%Y-%m-%dT10:30:00",
    "month/day/year": "%m/%d/%Y",
    "day/month/year": "%d/%m/%Y",
    "month/day/year, two digits": "%m/%d/%y",
    "day/month/year, two digits": "%d/%m/%y",
    "day.month.year": "%d.%m.%Y",
    "day.month.year, two digits": "%d.%m.%y",
    "1 Mar 2019": "%d %b %Y",
    "1-Mar-2019": "%d-%b-%Y",
    "1 March 2019": "%d %B %Y",
    "Mar 1, 2019": "%b %d, %Y",
    "digits alone": "%Y%m%d",
    "year/month/day": "%Y/%m/%d",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_column_of_one_form_is_read(form: str) -> None:
    cells = [day.strftime(FORMS[form]) for day in DAYS]
    read = date_reader(cells, "VISDATE of CDR.csv")
    assert [read(cell) for cell in cells] == DAYS


def test_a_spreadsheets_serial_numbers_are_read() -> None:
    cells = [str((day - date(1899, 12, 30)).days) for day in DAYS]
    read = date_reader(cells, "VISDATE of CDR.csv")
    assert [read(cell) for cell in cells] == DAYS == [read(f"{cell}.0") for cell in cells]


def test_a_column_that_can_be_read_in_two_ways_is_refused_with_both() -> None:
    with pytest.raises(DataError, match=r"VISDATE of CDR\.csv .* month/day/year or as day/month/year, .*'3/4/2019'"):
        date_reader(["3/4/2019", "12/11/2020", ""], "VISDATE of CDR.csv")
    assert date_reader(["3/3/2019"], "c")("3/3/2019") == date(2019, 3, 3), "the same day in both"


def test_a_column_that_fits_neither_reading_is_refused_with_an_example_of_each() -> None:
    with pytest.raises(DataError, match=r"neither month/day/year, .*'25/4/2019', nor day/month/year, .*'4/25/2019'"):
        date_reader(["25/4/2019", "4/25/2019"], "c")


def test_a_column_without_a_date_is_refused_with_an_example() -> None:
    with pytest.raises(DataError, match="VISDATE holds no date that can be read, for example 'last spring'"):
        date_reader(["last spring", ""], "VISDATE")
    read = date_reader(["2019-01-01", "last spring", "-4", "n/a"], "VISDATE")
    assert [read(text) for text in ("last spring", "-4", "n/a", "", "2005-13-01")] == [None] * 5


def test_an_empty_column_has_no_date_and_is_no_error() -> None:
    assert date_reader(["13:45:00"], "c")("13:45:00") is None
    assert date_reader([], "c")("") is None and date_reader(["", "NA", "-4"], "c")("NA") is None
