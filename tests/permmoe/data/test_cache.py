"""The cache returns what reading returns, never anything stale, torn or corrupt, whatever other processes do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from permmoe.config import VolumeGrid
from permmoe.data import cache as cache_module
from permmoe.data.cache import VolumeCache
from permmoe.data.image_features import image_features
from permmoe.data.image_file import BrokenVolume
from permmoe.data.visits import Visit
from permmoe.data.volumes import grid_affine, read_volume
from permmoe.modality import Modality
from tests.support.patience import PATIENCE_SECONDS

MRI = Modality(name="t1")
PET = Modality(name="amyloid", normalisation="suvr")
SMALL = VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0)


def save(path: Path, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).uniform(0.5, 2.0, SMALL.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, grid_affine(SMALL)), path)
    return path


def visit(subject: str, **volumes: Path) -> Visit:
    return Visit(subject, "011", "M000", 1.0, 0.0, 24.0, volumes=volumes)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read in full, in order."""
    log: list[Path] = []

    def logged(path: Path, *rest: object) -> object:
        log.append(path)
        return read_volume(path, *rest)

    monkeypatch.setattr(cache_module, "read_volume", logged)
    return log


def entries(folder: Path, pattern: str = "*.npy") -> list[Path]:
    return sorted(folder.glob(pattern))


def test_cached_volume_equals_reading_in_half_precision(tmp_path: Path) -> None:
    path, cache = save(tmp_path / "a.nii"), VolumeCache(tmp_path / "cache")
    for _ in range(2):
        cached = cache.get(path, MRI, SMALL)
        assert isinstance(cached, np.memmap)
        assert cached.dtype == np.float16
        np.testing.assert_array_equal(cached, read_volume(path, MRI, SMALL).half().numpy())


def test_each_file_is_read_once_even_by_another_cache_object(tmp_path: Path, reads: list[Path]) -> None:
    path = save(tmp_path / "a.nii")
    for _ in range(3):
        VolumeCache(tmp_path / "cache").get(path, MRI, SMALL)
    assert reads == [path]


def test_same_content_under_another_name_is_not_read_again(tmp_path: Path, reads: list[Path]) -> None:
    cache = VolumeCache(tmp_path / "cache")
    cache.get(save(tmp_path / "a.nii"), MRI, SMALL)
    cache.get(save(tmp_path / "b.nii"), MRI, SMALL)
    assert len(reads) == 1


def test_changed_file_or_setting_is_another_entry(tmp_path: Path) -> None:
    path, folder = save(tmp_path / "a.nii"), tmp_path / "cache"
    before = np.array(VolumeCache(folder).get(path, MRI, SMALL))
    VolumeCache(folder).get(path, PET, SMALL)
    VolumeCache(folder).get(path, MRI, VolumeGrid(shape=(7, 5, 11), spacing_mm=16.0))
    VolumeCache(folder, frames="mean").get(path, MRI, SMALL)
    assert len(entries(folder)) == 4
    save(path, seed=1)
    os.utime(path, ns=(1, 1))
    after = VolumeCache(folder).get(path, MRI, SMALL)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, read_volume(path, MRI, SMALL).half().numpy())


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "emptied", "zeroed", "text"])
def test_corrupt_entry_is_noticed_and_rebuilt(tmp_path: Path, reads: list[Path], damage: str) -> None:
    path, cache = save(tmp_path / "a.nii"), VolumeCache(tmp_path / "cache")
    whole = np.array(cache.get(path, MRI, SMALL))
    (entry,) = entries(cache.folder)
    content = entry.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
    entry.write_bytes(
        {
            "cut": content[:300],
            "flipped bit": flipped,
            "emptied": b"",
            "zeroed": bytes(len(content)),
            "text": b"x" * 99,
        }[damage]
    )
    np.testing.assert_array_equal(cache.get(path, MRI, SMALL), whole)
    assert len(reads) == 2
    assert entry.read_bytes() == content


@pytest.mark.parametrize("memo", ["as it was", "", "[1.0, 2.0]", "[NaN]", "not a list"])
def test_an_images_features_are_computed_once_and_again_where_they_were_damaged(
    tmp_path: Path, memo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, computed = save(tmp_path / "t1.nii"), list[int]()

    def counted(volume: np.ndarray) -> np.ndarray:
        computed.append(1)
        return image_features(volume)

    monkeypatch.setattr(cache_module, "image_features", counted)
    wanted = image_features(VolumeCache(tmp_path / "cache").get(image, MRI, SMALL))
    np.testing.assert_array_equal(VolumeCache(tmp_path / "cache").features(image, MRI, SMALL), wanted)
    [file] = (tmp_path / "cache").glob("features-*/*.json")
    if memo != "as it was":
        file.write_text(memo)
    np.testing.assert_array_equal(VolumeCache(tmp_path / "cache").features(image, MRI, SMALL), wanted)
    assert len(computed) == (1 if memo == "as it was" else 2) and file.stat().st_mode & 0o77 == 0


def test_broken_file_is_read_once_until_it_changes(tmp_path: Path, reads: list[Path]) -> None:
    path, cache = tmp_path / "a.nii", VolumeCache(tmp_path / "cache")
    path.write_bytes(b"broken" * 100)
    for _ in range(3):
        with pytest.raises(BrokenVolume, match="header cannot be read"):
            cache.get(path, MRI, SMALL)
    assert reads == [path]
    save(path)
    assert cache.get(path, MRI, SMALL).shape == SMALL.shape
    path.unlink()
    with pytest.raises(BrokenVolume, match="file not found"):
        cache.get(path, MRI, SMALL)


def test_a_refusal_for_an_unknown_reason_is_not_believed(tmp_path: Path, reads: list[Path]) -> None:
    path, cache = tmp_path / "a.nii", VolumeCache(tmp_path / "cache")
    path.write_bytes(b"broken" * 100)
    with pytest.raises(BrokenVolume):
        cache.get(path, MRI, SMALL)
    [refusal] = cache.folder.glob("*.broken")
    refusal.write_text("a reason of another version")
    with pytest.raises(BrokenVolume, match="header cannot be read"):
        cache.get(path, MRI, SMALL)
    assert reads == [path, path] and refusal.read_text() == "header cannot be read"


def test_cache_is_closed_to_other_users_and_names_nobody(tmp_path: Path) -> None:
    cache = VolumeCache(tmp_path / "cache")
    cache.get(save(tmp_path / "sub-ADNI011S0002_T1w.nii"), MRI, SMALL)
    assert cache.folder.stat().st_mode & 0o077 == 0
    for file in cache.folder.rglob("*"):
        assert "ADNI" not in file.name
        assert file.is_dir() or b"ADNI" not in file.read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_build_fills_everything_and_itemises_what_is_broken(tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"broken" * 100)
    visits = [
        visit("1", t1=save(tmp_path / "1.nii", 1), amyloid=save(tmp_path / "2.nii", 2)),
        visit("2", t1=broken, tau=save(tmp_path / "3.nii", 3)),
        visit("3", amyloid=tmp_path / "absent.nii"),
    ]
    told: list[tuple[int, int]] = []
    cache = VolumeCache(tmp_path / "cache")
    quarantine = cache.build(visits, [MRI, PET], SMALL, workers, lambda done, total: told.append((done, total)))
    assert [(i.subject_id, i.modality, i.reason) for i in quarantine] == [
        ("2", "t1", "header cannot be read"),
        ("3", "amyloid", "file not found"),
    ]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(entries(cache.folder)) == 2


# --------------------------------------------------------------------------------------------- several real processes

FILL = """
import sys
from pathlib import Path
from permmoe.config import VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.modality import Modality
folder, *files = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
for file in files:
    VolumeCache(folder).get(file, Modality(name="t1"), VolumeGrid(shape=(5, 7, 11), spacing_mm=16.0))
    print("done", flush=True)
"""


def start(folder: Path, files: Sequence[Path]) -> "subprocess.Popen[str]":
    """A process that waits for a line of input before it fills the cache."""
    command = [sys.executable, "-c", FILL, str(folder), *map(str, files)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say_go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def line_from(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_processes_that_fill_one_folder_or_die_in_it_leave_it_whole(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{seed}.nii", seed) for seed in range(61)]
    folder = tmp_path / "cache"
    victim, rival = start(folder, files), start(folder, files)
    for process in (victim, rival):
        assert line_from(process) == "ready"
    for process in (victim, rival):
        say_go(process)
    assert line_from(victim) == "done"
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    rival.communicate(timeout=PATIENCE_SECONDS)
    assert rival.returncode == 0
    assert len(entries(folder)) == len(files)
    for file in files:
        np.testing.assert_array_equal(
            VolumeCache(folder).get(file, MRI, SMALL), read_volume(file, MRI, SMALL).half().numpy()
        )


def test_what_a_killed_process_left_is_never_returned_and_goes_away_in_time(tmp_path: Path, reads: list[Path]) -> None:
    """Every prefix of an entry that a kill can leave stays under its unfinished name."""
    path, cache = save(tmp_path / "a.nii"), VolumeCache(tmp_path / "cache")
    cache.get(path, MRI, SMALL)
    (entry,) = entries(cache.folder)
    old, new = cache.folder / ".unfinished-old", cache.folder / ".unfinished-new"
    for unfinished in (old, new):
        unfinished.write_bytes(entry.read_bytes()[:300])
    entry.unlink()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    cache.build([visit("1", t1=path)], [MRI], SMALL)
    assert len(reads) == 2
    assert not old.exists()
    assert new.exists()


def test_interrupted_write_leaves_neither_entry_nor_unfinished_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = save(tmp_path / "a.nii"), VolumeCache(tmp_path / "cache")

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        cache.get(path, MRI, SMALL)
    assert [p for p in cache.folder.rglob("*") if p.is_file()] == []
