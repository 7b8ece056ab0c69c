"""TensorBoard: event files in a folder.

They are written record by record, without `torch.utils.tensorboard`, which puts the machine's name into a file's name
and writes in a thread of its own, where a full disk is noticed late.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

FORMAT = "brain.Event:2"


def connect(target: str) -> TensorBoardTracker:
    """A tracker in a folder, which is made."""
    return TensorBoardTracker(Path(target))


class TensorBoardTracker:
    """A folder for `tensorboard --logdir`: groups are folders in it, runs are folders in these."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, group: str, name: str, settings: Mapping[str, str]) -> EventFile:
        """A new event file; those of an interrupted run lie beside it, and TensorBoard joins them."""
        folder = self._folder / _as_folder(group) / _as_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("events.out.tfevents.*")))
        file = EventFile(folder / f"events.out.tfevents.{number:04d}")
        table = "\n".join(["| setting | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in settings.items())])
        file.write(Event(step=0, summary=text_pb("settings", table)))
        return file


class EventFile:
    """One file of records."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._records = RecordWriter(self._file)
        self.write(Event(file_version=FORMAT))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """All figures of a step in one record."""
        values = [value for name, figure in figures.items() for value in scalar_pb(name, figure).value]
        self.write(Event(step=step, summary=Summary(value=values)))

    def end(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: Event) -> None:
        """Write a record to the disk, with the time."""
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()


def _as_folder(name: str) -> str:
    return name.replace("/", "_")
