"""Preprocessed volumes on disk: each file is read through `read_volume` once, by whichever process is first.

An entry's name is a digest of the image's content and of every setting that shapes the result, so a changed file or
setting is another entry and nothing stale can be returned. Entries appear whole (written aside, then renamed), carry a
checksum, and are rebuilt where it fails; any number of processes may fill one folder, and any may be killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float64

from permmoe.config import VolumeGrid
from permmoe.data.image_features import FEATURES, FEATURES_VERSION, image_features
from permmoe.data.image_file import BrokenVolume, Frames, why_unread
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit
from permmoe.data.volumes import PREPROCESSING_VERSION, read_volume
from permmoe.errors import DataError
from permmoe.modality import Modality
from permmoe.runtime.file_memory import FileMemory
from permmoe.runtime.files import UNFINISHED_PREFIX, write_file
from permmoe.runtime.workers import worker_pool

Progress = Callable[[int, int], None]
"""Told how many volumes of how many are done."""

CHECKSUM_BYTES = 4
ABANDONED_SECONDS = 24 * 3600.0
MOST_CHECKED = 100_000
_WHOLE: FileMemory[bool] = FileMemory(MOST_CHECKED)
"""Which entries this process has checked, so many at most."""


@dataclass(frozen=True)
class VolumeCache:
    """A folder of float16 volumes, readable by its owner only: it holds patients' images."""

    folder: Path
    frames: Frames = "reject"

    def get(self, path: Path, modality: Modality, grid: VolumeGrid) -> Float16[np.ndarray, "x y z"]:
        """The preprocessed image, mapped from disk. Raises BrokenVolume, remembered until the file changes."""
        return _mapped(self.entry(path, modality, grid), grid)

    def entry(self, path: Path, modality: Modality, grid: VolumeGrid) -> Path:
        """The .npy file that holds the preprocessed image, made and checked where need be. Raises BrokenVolume."""
        entry = self.folder / self.name(path, modality, grid)
        if _is_whole(entry, grid):
            return entry
        try:
            voxels = read_volume(path, modality, grid, self.frames)
        except BrokenVolume as broken:
            self._put(entry.with_suffix(".broken"), broken.reason.encode())
            raise
        buffer = io.BytesIO()
        np.save(buffer, voxels.half().numpy())
        content = buffer.getvalue()
        self._put(entry, content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "big"))
        return entry

    def features(self, path: Path, modality: Modality, grid: VolumeGrid) -> Float64[np.ndarray, " feature"]:
        """`FEATURES` of the preprocessed image, computed once and remembered. Raises BrokenVolume."""
        name = Path(self.name(path, modality, grid)).stem
        memo = self.folder / f"features-{FEATURES_VERSION}" / f"{name}.json"
        if (known := _numbers(memo, len(FEATURES))) is not None:
            return known
        found = image_features(self.get(path, modality, grid))
        self._put(memo, json.dumps(found.tolist()).encode())
        return found

    def name(self, path: Path, modality: Modality, grid: VolumeGrid) -> str:
        """The name of an image's entry, made or not: a digest of its bytes and of what they are read with.

        Raises BrokenVolume where the file cannot be opened, and where it was found broken before.
        """
        key = _key(self._content_digest(path), modality, grid, self.frames)
        if reason := _known_reason(self.folder / f"{key}.broken"):
            raise BrokenVolume(reason)
        return f"{key}.npy"

    def build(
        self,
        visits: Iterable[Visit],
        modalities: Sequence[Modality],
        grid: VolumeGrid,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> Quarantine:
        """Fill the cache with every volume of the visits, and itemise the broken ones.

        More than one worker starts processes afresh, so a script that calls this needs the usual `__main__` guard.
        Raises DataError where a worker dies.
        """
        self._remove_abandoned()
        tasks = [
            (visit.subject_id, modality, visit.volumes[modality.name])
            for visit in visits
            for modality in modalities
            if modality.name in visit.volumes
        ]
        reasons: dict[int, Reason] = {}

        def note(index: int, reason: Reason | None, done: int) -> None:
            if reason is not None:
                reasons[index] = reason
            if progress is not None:
                progress(done, len(tasks))

        if workers <= 1:
            for index, (_, modality, path) in enumerate(tasks):
                note(index, _fill(self, path, modality, grid), index + 1)
        else:
            with worker_pool(workers, threads=1) as pool:
                futures = {
                    pool.submit(_fill, self, path, modality, grid): index
                    for index, (_, modality, path) in enumerate(tasks)
                }
                try:
                    for done, future in enumerate(as_completed(futures), start=1):
                        note(futures[future], future.result(), done)
                except BrokenProcessPool:
                    raise DataError(
                        "a process that read volumes died, most likely for lack of memory; "
                        "start again with fewer workers: what was read so far is kept",
                        for_log="a process that read volumes died, most likely for lack of memory",
                    ) from None
        return Quarantine(
            tuple(
                Quarantined(subject, modality.name, str(path), reasons[index])
                for index, (subject, modality, path) in enumerate(tasks)
                if index in reasons
            )
        )

    def _content_digest(self, path: Path) -> str:
        """SHA-256 of the file, remembered for its path, size and modification time. Raises BrokenVolume."""
        try:
            status = path.stat()
            named = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
            memo = self.folder / "digests" / hashlib.sha256(named.encode()).hexdigest()
            known = _text(memo)
            if re.fullmatch(r"[0-9a-f]{64}", known):
                return known
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BrokenVolume(why_unread(error)) from None
        self._put(memo, digest.encode())
        return digest

    def _put(self, file: Path, content: bytes) -> None:
        """Make a file appear whole or not at all, also where several processes make it or this one is killed."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # An entry that a power cut takes is made again, so none need wait for the disk.
        write_file(file, content, is_durable=False, scratch=self.folder)

    def _remove_abandoned(self) -> None:
        """Delete what killed processes left unfinished a day ago or earlier."""
        for unfinished in self.folder.glob(f"{UNFINISHED_PREFIX}*"):
            try:
                if time.time() - unfinished.stat().st_mtime > ABANDONED_SECONDS:
                    unfinished.unlink()
            except FileNotFoundError:
                continue


def _fill(cache: VolumeCache, path: Path, modality: Modality, grid: VolumeGrid) -> Reason | None:
    """Make one entry; the reason where the volume is broken."""
    try:
        cache.entry(path, modality, grid)
    except BrokenVolume as broken:
        return broken.reason
    return None


def _key(content_digest: str, modality: Modality, grid: VolumeGrid, frames: Frames) -> str:
    settings = {
        "content": content_digest,
        "frames": frames,
        "grid": grid.canonical_json(),
        "normalisation": modality.normalisation,
        "version": PREPROCESSING_VERSION,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _mapped(entry: Path, grid: VolumeGrid) -> Float16[np.ndarray, "x y z"]:
    volume: Float16[np.ndarray, "x y z"] = np.load(entry, mmap_mode="r", allow_pickle=False)
    if volume.shape != grid.shape:
        raise ValueError(f"cache entry has shape {volume.shape}, not the grid's {grid.shape}")
    return volume


def _is_whole(entry: Path, grid: VolumeGrid) -> bool:
    """Whether an entry exists, has its checksum and the grid's shape: disks fail and power is lost.

    A process reads an entry for it once, as long as the entry does not change.
    """
    try:
        return _WHOLE.get(entry, grid.shape, lambda: _has_checksum(entry, grid))
    except OSError:
        return False


def _has_checksum(entry: Path, grid: VolumeGrid) -> bool:
    try:
        content = entry.read_bytes()
        return (
            zlib.crc32(content[:-CHECKSUM_BYTES]) == int.from_bytes(content[-CHECKSUM_BYTES:], "big")
            and _mapped(entry, grid).dtype == np.float16
        )
    except (OSError, ValueError, EOFError):
        return False


def _known_reason(refusal: Path) -> Reason | None:
    """Why an image was refused before; None where it was not, or for a reason that this version does not know."""
    text = _text(refusal)
    return next((reason for reason in Reason if reason == text), None)


def _numbers(file: Path, count: int) -> Float64[np.ndarray, " number"] | None:
    """So many finite numbers that a file holds; None where it is not there, or holds anything else."""
    try:
        found = np.array(json.loads(_text(file)), dtype=np.float64)
    except (ValueError, TypeError):
        return None
    return found if found.shape == (count,) and np.isfinite(found).all() else None


def _text(file: Path) -> str:
    """A small text file's content; empty where there is none."""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
