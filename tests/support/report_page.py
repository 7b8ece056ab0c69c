"""A report as tests read it: the page as a browser sees it, and the study that it is made from."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from permmoe_simulation.report import SECTIONS
from permmoe_simulation.report.content import Item, Plot, Section, Text
from permmoe_simulation.report.files import Study, read_study
from permmoe_simulation.report.page import page
from permmoe_simulation.report.section import tables_of
from permmoe_simulation.report.view import View, view_of

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """The page as a browser sees it: elements with attributes, tables as lists of rows, and all visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("caption", "figcaption"):
            self.captions.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            text = self.tables[-1][-1]
            text[-1] += f" | {data.strip()}" if "small" in self.open else data
        if {"caption", "figcaption"} & set(self.open):
            self.captions[-1] += data

    @property
    def text(self) -> str:
        return "".join(self.words)

    def table(self, caption: str) -> list[list[str]]:
        """The rows, header first, of the only table whose caption contains a text."""
        captions = [c for c in self.captions if not re.search(r"Figure \d+\.", c)]
        found = [table for c, table in zip(captions, self.tables, strict=True) if caption in c]
        assert len(found) == 1
        return found[0]


def read(path: Path) -> pd.DataFrame:
    """A table of a study, with the method called `null` kept."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"site": str})


def study_of(folder: Path) -> Study:
    return read_study(folder, tables_of(SECTIONS))


def view(folder: Path) -> View:
    return view_of(study_of(folder))


def page_of(folder: Path) -> str:
    return page(study_of(folder))


def texts(section: Section | None) -> str:
    """All paragraphs, and the captions of all figures."""
    assert section is not None

    def shown(item: Item) -> str:
        return item.text if isinstance(item, Text) else item.caption if isinstance(item, Plot) else ""

    return " ".join(map(shown, section.items))
