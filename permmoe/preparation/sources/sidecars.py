"""The JSON sidecars of images, as BIDS-PET has them: tracer and times of frames.

A sidecar may stand beside its image or in a folder above, where it serves every image whose name has all of its
entities; the nearer one counts (BIDS, the inheritance principle).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from permmoe.data.image_file import BrokenVolume
from permmoe.data.image_names import stem
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames
from permmoe.tracers import tracer_in


@dataclass(frozen=True)
class Sidecars:
    """The JSON files of a tree, by their folders."""

    by_folder: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)

    @staticmethod
    def among(files: Iterable[Path]) -> Sidecars:
        """The sidecars among files that were listed."""
        found: dict[Path, list[Path]] = defaultdict(list)
        for file in files:
            if file.name.endswith(".json"):
                found[file.parent].append(file)
        return Sidecars({folder: tuple(sorted(names)) for folder, names in found.items()})

    def of(self, image: Path) -> dict[str, Any]:
        """What the sidecars say of an image; one that cannot be read says nothing."""
        parts = stem(image).split("_")
        said: dict[str, Any] = {}
        for folder in reversed(image.parents):
            for file in sorted(self.by_folder.get(folder, ()), key=lambda f: len(f.name)):
                own = file.stem.split("_")
                if own[-1] == parts[-1] and set(own) <= set(parts):
                    said |= _read(file)
        return said


def tracer_of(said: Mapping[str, Any]) -> str:
    """The canonical name of the tracer that a sidecar names; empty where it names none that is known."""
    return tracer_in(str(said.get("TracerName") or said.get("Radiopharmaceutical") or "")) or ""


def frames_of(said: Mapping[str, Any], n_frames: int) -> Frames | None:
    """The times of a PET image's frames; None for an image of one frame whose times are not told.

    Raises BrokenVolume where several frames have no times, or other times than theirs.
    """
    starts, durations = (seconds_of(said.get(key)) for key in ("FrameTimesStart", "FrameDuration"))
    if not durations or not starts:
        if n_frames > 1:
            raise BrokenVolume(Reason.NO_FRAME_TIMES)
        return None
    if n_frames == 1 and len(durations) == 1:
        return None
    is_forward = all(a < b for a, b in pairwise(starts)) and min(durations) > 0
    if len(starts) != n_frames or len(durations) != n_frames or not is_forward:
        raise BrokenVolume(Reason.OTHER_FRAME_TIMES)
    return Frames(starts, durations)


def seconds_of(value: object) -> tuple[float, ...]:
    """A list of seconds, or a single number of them; empty where there is none."""
    values = value if isinstance(value, list) else [value]
    numbers = tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    return numbers if len(numbers) == len(values) else ()


def _read(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
