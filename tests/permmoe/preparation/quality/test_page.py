"""qc.html is one file that shows the doubtful first, escapes what it names and asks nobody for anything."""

from __future__ import annotations

import json
import re
import stat
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from rich.console import Console

from permmoe.data.reasons import Reason
from permmoe.preparation.quality.judged import failed, worst_first
from permmoe.preparation.quality.page import qc_page, write_page
from permmoe.preparation.quality.summary_table import summary_table
from tests.support.invented_metrics import PET, judged

FOLDER = Path("/data/derivatives")
IMAGES = [
    judged("011_S_0001", FOLDER),
    judged("011_S_0001", FOLDER, PET, agreement=0.05),
    judged("011_S_0002", FOLDER),
    judged("011_S_0003", FOLDER, stretch=1.4, noise=0.3),
    judged("011_S_0004", FOLDER, PET),
]


def page(images: list[Any] = IMAGES, **changes: Any) -> str:
    return qc_page(images, FOLDER, **({"title": "A dataset", "is_synthetic": False} | changes))


def elements_of(html: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Every element as a browser sees it, with its attributes."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, attrs))

    Reader().feed(html)
    return found


def data_of(html: str) -> Any:
    return json.loads(html.split('id="data">', 1)[1].split("</script>", 1)[0])


def test_sessions_come_worst_first_with_all_their_images_together() -> None:
    sessions = data_of(page())["sessions"]
    assert [(s["subject"], s["verdict"]) for s in sessions] == [
        ("011_S_0001", "failed"), ("011_S_0003", "look"), ("011_S_0002", "good"), ("011_S_0004", "good"),
    ]  # fmt: skip
    assert [(i["modality"], i["verdict"]) for i in sessions[0]["images"]] == [("t1", "good"), ("amyloid", "failed")]


def test_the_page_counts_verdicts_and_says_why() -> None:
    html = page()
    assert "5 images of 4 sessions" in html
    assert "3 good" in html and "1 to look at" in html and "1 failed" in html
    assert Reason.BAD_REGISTRATION in html and "largest scaling over the least" in html


def test_sheets_are_named_by_where_they_lie_from_the_page() -> None:
    assert data_of(page())["sessions"][0]["sheet"] == "sheets/011_S_0001.png"
    odd = judged("a b#?%", FOLDER)
    assert data_of(page([odd]))["sessions"][0]["sheet"] == "sheets/a%20b%23%3F%25.png"


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "<!--"]
)
def test_a_name_is_shown_and_never_obeyed(text: str) -> None:
    html = page([judged(text, FOLDER)], title=text)
    assert data_of(html)["sessions"][0]["subject"] == text
    elements = elements_of(html)
    assert [tag for tag, _ in elements].count("script") == 2 and "img" not in [tag for tag, _ in elements]
    assert not [name for _, attributes in elements for name, _ in attributes if name.startswith("on")]
    assert f"<h1>{escape(text)}</h1>" in html


def test_the_page_asks_nobody_for_anything_and_runs_no_other_script() -> None:
    html = page()
    assert not re.findall(
        r"https?://|//[a-z]|@import|url\(", html.replace("http://www.w3.org/2000/svg", "").replace("// The", "")
    )
    script = html.rsplit("<script>", 1)[1].rsplit("</script>", 1)[0]
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in html
    assert "default-src 'none'" in html


def test_synthetic_data_is_called_so_and_other_data_is_not() -> None:
    assert "Synthetic data" in page(is_synthetic=True)
    assert "ynthetic data" not in page()


def test_the_page_says_that_it_stays_at_the_site_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    write_page(tmp_path / "qc.html", IMAGES, title="A dataset", is_synthetic=False)
    assert stat.S_IMODE((tmp_path / "qc.html").stat().st_mode) == 0o600
    assert "Stays at the site" in (tmp_path / "qc.html").read_text(encoding="utf-8")


def test_metrics_that_are_missing_or_no_numbers_are_left_out_of_distributions() -> None:
    images = [judged("a", FOLDER, correlation=float("nan")), judged("b", FOLDER, noise=None), judged("c", FOLDER)]
    of_t1 = {m["field"]: m for m in data_of(page(images))["measures"]["t1"]}
    assert sum(of_t1["correlation"]["counts"]) == sum(of_t1["noise"]["counts"]) == 2
    assert "cortical_suvr" not in of_t1


def test_an_image_far_out_does_not_flatten_the_distribution_of_the_others() -> None:
    usual = [judged(str(k), FOLDER, correlation=0.8 + 0.001 * k) for k in range(60)]
    counts = {
        m["field"]: m for m in data_of(page([*usual, judged("odd", FOLDER, correlation=-900.0)]))["measures"]["t1"]
    }
    drawn = counts["correlation"]
    assert drawn["low"] > 0.6 and sum(drawn["counts"]) == 61 and drawn["counts"][0] == 1


def test_a_dataset_without_an_image_has_a_page() -> None:
    assert "0 images of 0 sessions" in page([])


def test_thousands_of_sessions_make_a_page_of_few_megabytes() -> None:
    assert len(page([judged(f"011_S_{k:05}", FOLDER) for k in range(3000)])) < 8_000_000


def test_failed_images_are_quarantined_with_their_reason() -> None:
    (item,) = failed(IMAGES)
    assert (item.subject_id, item.modality, item.reason) == ("011_S_0001", "amyloid", Reason.BAD_REGISTRATION)
    assert item.file == "011_S_0001.nii.gz"


def test_the_order_is_the_same_whatever_it_was() -> None:
    assert worst_first(IMAGES) == worst_first(IMAGES[::-1])


def test_the_summary_in_a_terminal_counts_and_names_no_subject() -> None:
    with (console := Console(width=100)).capture() as captured:
        console.print(summary_table(IMAGES))
    lines = [re.split(r"\s*[│|]\s*", line.strip()) for line in captured.get().splitlines()]
    rows = {line[1]: line[2:5] for line in lines if len(line) > 5}
    assert rows["T1"] == ["2", "1", "0"] and rows["Amyloid PET"] == ["1", "0", "1"]
    assert "not registered to the template (1)" in captured.get() and "011_S" not in captured.get()


def test_scans_that_have_no_picture_are_counted_each_reason_with_what_to_do() -> None:
    html = page(without_picture={Reason.NOT_A_HEAD: 2, Reason.LOCALISER: 5})
    assert "quarantine.csv" in html and html.index(Reason.LOCALISER) < html.index(Reason.NOT_A_HEAD)
    assert escape(Reason.LOCALISER.remedy) in html and escape(Reason.NOT_A_HEAD.remedy) in html
    assert "before there was a picture" not in page()


def test_the_page_says_of_which_modalities_there_are_too_few_images_to_compare() -> None:
    many = [judged(str(k), FOLDER) for k in range(20)]
    assert "too few to tell" in page(many[:19]) and "too few to tell" not in page(many)
