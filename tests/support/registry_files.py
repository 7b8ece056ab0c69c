"""Registries' tables and image trees, as small as a test needs them."""

from pathlib import Path


def write_lines(path: Path, *lines: str) -> Path:
    """Write a table of these lines, and the folders above it; return its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path.parent


def write_image(folder: Path, subject: str, session: str, name: str = "T1w", kind: str = "anat") -> Path:
    """Write an empty image of BIDS form; return its file."""
    file = folder / f"sub-{subject}" / f"ses-{session}" / kind / f"sub-{subject}_ses-{session}_{name}.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    return file
