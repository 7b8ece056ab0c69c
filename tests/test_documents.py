"""What the documents name exists: files, modules, tests. A document that names nothing that is there is out of date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
HISTORY = {"CHANGELOG.md"}
"""Documents that name what is no longer there on purpose."""
SOURCES = sorted(
    path
    for folder in ("permmoe", "server", "client", "simulation", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
FLOWER = ("flwr/", "flower_superlink.py", "superlink/main.py")
"""How the names of Flower's own files begin, which the documents cite."""
CLASSES = {name for path in SOURCES for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)}
MEMBERS = {
    name for path in SOURCES for name in re.findall(r"(?:\bdef |^    (?!def ))(\w+)", path.read_text(), re.MULTILINE)
}
TESTS = {name for path in SOURCES for name in re.findall(r"def (test_\w+)", path.read_text())}
QUOTED = re.compile(r"`([^`\n]+)`")


def named_files(text: str) -> set[str]:
    """Every source file that a document names in backquotes, braces such as `{a,b}.py` taken apart."""
    found: set[str] = set()
    for quoted in QUOTED.findall(text):
        for word in quoted.split():
            braces = re.fullmatch(r"([\w./-]*)\{([\w,]+)\}([\w./-]*)", word)
            words = [f"{braces[1]}{part}{braces[3]}" for part in braces[2].split(",")] if braces else [word]
            found |= {w for w in words if re.fullmatch(r"[\w./-]+\.(py|yaml|md|toml)", w) and not w.startswith(".")}
    return found


def is_there(name: str) -> bool:
    return any(str(path.relative_to(ROOT)).endswith(f"/{name}") or (ROOT / name).exists() for path in SOURCES)


def documents() -> list[Path]:
    return [path for path in DOCUMENTS if path.name not in HISTORY]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_source_file_that_a_document_names_exists(document: Path) -> None:
    python = {name for name in named_files(document.read_text()) if name.endswith(".py")}
    assert not {name for name in python if not name.startswith(FLOWER) and not is_there(name)}


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    """An ellipsis stands for the rest of a name: `test_attack_a_block…`, `…_bits_changed…`."""
    missing = []
    for quoted in QUOTED.findall(document.read_text()):
        pattern = quoted.strip("…")
        is_name = re.fullmatch(r"test_\w+…?|…_\w+…?", quoted)
        if is_name and not any(pattern in test for test in TESTS) and not is_there(f"{quoted}.py"):
            missing.append(quoted)
    assert not missing


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_method_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"`([A-Z][a-z]\w+)\.(\w+)`", document.read_text())
    assert not [f"{owner}.{member}" for owner, member in named if owner not in CLASSES or member not in MEMBERS]
