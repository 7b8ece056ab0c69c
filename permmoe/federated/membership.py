"""What a member of a federation may fetch for itself: the signed roster, its own newest certificate, the newest receipt
for its ledger, and a version.

The coordinator's gateway answers at `MEMBER_PATH`, over the connection that proves both sides. A site believes nothing
of it but what the federation's authority signed (permmoe_client.connection.renewal).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass

from permmoe.federated.roster import MAX_ROSTER_BYTES

MEMBER_PATH = "/v1/member"
VERSION_HEADER = "permmoe-version"
"""Of the request: the version that the site runs."""
MAX_PAPERS_BYTES = 2 * MAX_ROSTER_BYTES
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")


@dataclass(frozen=True)
class MemberPapers:
    """The answer to one member. Nothing of it is verified."""

    roster: bytes
    """The signed file."""
    certificate: bytes | None
    """The member's newest certificate (PEM); None where the coordinator keeps none for its key."""
    version: str
    """Of the coordinator's software; `unknown` for a text that is no version."""
    receipt: bytes | None = None
    """For the newest entry of the member's ledger that the coordinator was told of, in whatever study."""


def write_papers(papers: MemberPapers) -> bytes:
    """Write the answer."""
    certificate = None if papers.certificate is None else base64.b64encode(papers.certificate).decode()
    roster = base64.b64encode(papers.roster).decode()
    receipt = None if papers.receipt is None else papers.receipt.decode()
    values = {"roster": roster, "certificate": certificate, "version": papers.version, "receipt": receipt}
    return json.dumps(values).encode()


def read_papers(content: bytes) -> MemberPapers:
    """Return what an answer says. Raises ValueError for anything else."""
    if len(content) > MAX_PAPERS_BYTES:
        raise ValueError("longer than any roster")
    found = json.loads(content)
    try:
        certificate, receipt = found["certificate"], found["receipt"]
        return MemberPapers(
            base64.b64decode(found["roster"], validate=True),
            None if certificate is None else base64.b64decode(certificate, validate=True),
            known_version(found["version"]),
            None if receipt is None else receipt.encode(),
        )
    except (KeyError, TypeError, AttributeError):
        raise ValueError("no answer to a member") from None


def known_version(text: object) -> str:
    """A version as another party states it; `unknown` for anything that is none."""
    return text if isinstance(text, str) and VERSION.fullmatch(text) else "unknown"
