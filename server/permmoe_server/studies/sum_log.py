"""`sums.jsonl` in a study's folder: the sites of each secure sum, on disk before any site is asked to unmask it.

A coordinator that was killed at any moment still knows which sums the sites remember.
"""

from __future__ import annotations

import json
from pathlib import Path

from permmoe.federated.release_account import ReleaseAccount
from permmoe.federated.secure.session import Session
from permmoe.runtime.files import PUBLIC_MODE, append_line, write_file
from permmoe_server.protocol.summed_sites import SummedSites

FILE = "sums.jsonl"


def read_sums(out: Path) -> SummedSites:
    """Return the sums of the study in this folder, which writes further ones there."""
    path = out / FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    # A line that a kill cut short is of a sum that no site was asked to unmask.
    whole = [line for line in lines if line.endswith(b"\n")]
    if whole != lines:
        write_file(path, b"".join(whole), mode=PUBLIC_MODE)
    account = ReleaseAccount()
    for line in whole:
        account = account.after(dict.fromkeys(map(str, json.loads(line)["sites"]), 1))

    def keep(session: Session, sites: tuple[str, ...]) -> None:
        line = json.dumps({"round": session.round, "purpose": session.purpose, "sites": sites})
        append_line(path, line.encode(), mode=PUBLIC_MODE)

    return SummedSites(account, keep)
