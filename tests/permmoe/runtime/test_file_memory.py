"""What is remembered about a file holds while the file is the one that it was, and no longer."""

import os
import threading
from pathlib import Path

import pytest

from permmoe.runtime.file_memory import FileMemory

LONG_AGO_NS = 10**18


def settled(file: Path, text: str, time_ns: int = LONG_AGO_NS) -> Path:
    """A file that was written long ago."""
    file.write_text(text)
    os.utime(file, ns=(time_ns, time_ns))
    return file


class Reader:
    """Reads files, and counts how often."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, file: Path) -> str:
        self.reads += 1
        return file.read_text()


def test_a_file_that_does_not_change_is_read_once(tmp_path: Path) -> None:
    memory, read, file = FileMemory[str](9), Reader(), settled(tmp_path / "a", "old")
    assert [memory.get(file, "text", lambda: read(file)) for _ in range(3)] == ["old"] * 3
    assert read.reads == 1


@pytest.mark.parametrize(
    ("text", "time_ns"), [("new", LONG_AGO_NS + 1), ("newer", LONG_AGO_NS)], ids=["another time", "another size"]
)
def test_a_file_that_changed_is_read_again(tmp_path: Path, text: str, time_ns: int) -> None:
    memory, read, file = FileMemory[str](9), Reader(), settled(tmp_path / "a", "old")
    memory.get(file, "text", lambda: read(file))
    settled(file, text, time_ns)
    assert memory.get(file, "text", lambda: read(file)) == text


def test_another_file_in_its_place_is_read_though_its_size_and_time_are_the_same(tmp_path: Path) -> None:
    memory, read, file = FileMemory[str](9), Reader(), settled(tmp_path / "a", "old")
    memory.get(file, "text", lambda: read(file))
    settled(tmp_path / "b", "new").replace(file)
    assert memory.get(file, "text", lambda: read(file)) == "new"


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    memory, read, file = FileMemory[str](9), Reader(), tmp_path / "a"
    file.write_text("old")
    written = file.stat().st_mtime_ns
    memory.get(file, "text", lambda: read(file))
    settled(file, "new", written)
    assert memory.get(file, "text", lambda: read(file)) == "new"


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path) -> None:
    memory, file = FileMemory[str](9), settled(tmp_path / "a", "old")

    def read() -> str:
        with file.open("r+") as other:
            other.write("new")
        os.utime(file, ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
        return file.read_text()

    assert memory.get(file, "text", read) == "new"
    with file.open("r+") as other:
        other.write("old")
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert memory.get(file, "text", file.read_text) == "old"


def test_what_was_asked_is_part_of_the_answer(tmp_path: Path) -> None:
    memory, file = FileMemory[str](9), settled(tmp_path / "a", "old")
    assert memory.get(file, "text", file.read_text) == "old"
    assert memory.get(file, "name", lambda: file.name) == "a"


def test_the_least_used_is_forgotten_first(tmp_path: Path) -> None:
    memory, read = FileMemory[str](5, len), Reader()
    files = [settled(tmp_path / name, text) for name, text in (("a", "11"), ("b", "22"), ("c", "33"))]

    def get(number: int) -> str:
        return memory.get(files[number], "text", lambda: read(files[number]))

    for number in (0, 1, 0, 2):
        get(number)
    assert read.reads == 3
    get(0)
    assert read.reads == 3
    get(1)
    assert read.reads == 4


def test_an_answer_larger_than_all_that_may_be_remembered_is_given_and_forgotten(tmp_path: Path) -> None:
    memory, read, file = FileMemory[str](2, len), Reader(), settled(tmp_path / "a", "large")
    for _ in range(2):
        assert memory.get(file, "text", lambda: read(file)) == "large"
    assert read.reads == 2


def test_no_file_is_an_error_and_a_failed_reading_is_not_remembered(tmp_path: Path) -> None:
    memory, file = FileMemory[str](9), tmp_path / "a"
    with pytest.raises(FileNotFoundError):
        memory.get(file, "text", file.read_text)
    settled(file, "old")
    with pytest.raises(ZeroDivisionError):
        memory.get(file, "text", lambda: str(1 // 0))
    assert memory.get(file, "text", file.read_text) == "old"


def test_threads_may_ask_at_once(tmp_path: Path) -> None:
    memory, file = FileMemory[str](9, len), settled(tmp_path / "a", "old")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend(memory.get(file, i % 4, file.read_text) for i in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["old"] * 800
