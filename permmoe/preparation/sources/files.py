"""A single image file as a scan: what `--image t1=RAW.nii.gz` names."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from permmoe.data.image_file import BrokenVolume
from permmoe.data.image_names import image_name
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError, nearest
from permmoe.preparation.scan import MODALITIES, PET, Scan
from permmoe.preparation.sources.frame_files import FrameFile, Parts, grid_of, number_of, scan_name, scans_among
from permmoe.preparation.sources.image_facts import is_image, read_facts
from permmoe.preparation.sources.sidecars import Sidecars, frames_of, tracer_of
from permmoe.tracers import canonical_tracer


def scan_of_file(
    modality: str,
    file: Path,
    *,
    subject_id: str = "subject",
    session: str = "1",
    taken: date | None = None,
    tracer: str = "",
) -> Scan:
    """One image (`.nii`, `.nii.gz`, `.img` with its `.hdr`, `.mgz`) as a scan of a modality.

    A PET scan's tracer is the one given, else what its name or JSON sidecar tells, else empty. Raises
    ConfigurationError for a modality or tracer that is not known, BrokenVolume, with the reason, for a file that cannot
    be used: no image, one slice, frames without times.
    """
    if modality not in MODALITIES:
        raise ConfigurationError(f"no modality {modality!r}; {nearest(modality, MODALITIES)}")
    if tracer and canonical_tracer(tracer) is None:
        raise ConfigurationError(f"no tracer {tracer!r} is known for amyloid or tau; name it as AV45 or AV1451")
    file = _image_of(file)
    if file.is_file() and not is_image(file):
        raise BrokenVolume(Reason.NO_VOXELS)
    facts = read_facts(file, modality)
    name = image_name(file.name)
    is_registered = bool(name and name.is_in_template_space)
    if modality not in PET:
        return Scan(subject_id, session, modality, (file,), taken, is_registered=is_registered)
    sidecars = Sidecars.among(file.parent.glob("*.json"))
    said = sidecars.of(file)
    tracer = canonical_tracer(tracer) or (name.tracer if name else "") or tracer_of(said)
    region = name.region if name else ""
    if facts.n_frames == 1 and not is_registered:
        files, frames = _with_frames_beside(file, sidecars)
    else:
        files, frames = (file,), frames_of(said, facts.n_frames)
    return Scan(subject_id, session, modality, files, taken, tracer, frames, is_registered, region)


def _with_frames_beside(file: Path, sidecars: Sidecars) -> Parts:
    """The scan that a PET file of one volume is of: with the files beside it that are frames of the same scan."""
    name = scan_name(file)
    is_frame = name is not None and name[1]
    beside = [one for one in sorted(file.parent.iterdir()) if is_image(one) and scan_name(one) == name] if name else []
    if not is_frame:
        beside = [file, *(one for one in beside if one != file and _are_on_one_grid(one, file))]
    frames = [FrameFile(one, sidecars.of(one), number_of(one)) for one in beside]
    return next(parts for parts in scans_among(frames, are_frames=is_frame) if file in parts[0])


def _are_on_one_grid(one: Path, other: Path) -> bool:
    try:
        return grid_of(one) == grid_of(other)
    except BrokenVolume:
        return False


def _image_of(file: Path) -> Path:
    """The voxels' file where a header was named."""
    return file.with_suffix(".img") if file.suffix.lower() == ".hdr" else file
