"""ADNI's tables and image folders, as small as a test needs them."""

from pathlib import Path

MERGE_HEADER = "RID,COLPROT,PTID,VISCODE,EXAMDATE,DX,AGE,CDRSB,MMSE"


def write_table(folder: Path, name: str, *rows: str) -> Path:
    """Write a table of these rows and return its folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def write_scan(folder: Path, subject: str = "ADNI011S0002", session: str = "M000", day: str = "2010-01-10") -> Path:
    """Write an empty T1 image of a session, with its date unless that is empty, and return `folder`."""
    stem = f"sub-{subject}_ses-{session}"
    file = folder / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_T1w.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    if day:
        table = folder / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        table.write_text(f"session_id\texamination_date\nses-{session}\t{day}\n")
    return folder
