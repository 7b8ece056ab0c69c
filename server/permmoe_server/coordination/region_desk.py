"""A region's end of the hand-over: what the coordinator brings is checked, and written where the gateway reads it."""

from __future__ import annotations

from pathlib import Path

from permmoe.federated.audit import AuditError, Receipt, parse_receipt
from permmoe.federated.roster import Roster, RosterError, read_roster
from permmoe.runtime.files import PUBLIC_MODE, write_file
from permmoe_server.coordination.reply_announcement import Refused
from permmoe_server.gateway.refusals import read_refusals
from permmoe_server.provisioning.authority import load_certificate
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.provisioning.papers import read_versions
from permmoe_server.provisioning.region_papers import (
    RegionNews,
    RegionPapers,
    read_region_papers,
    write_region_news,
)
from permmoe_server.studies.receipt_file import RECEIPTS_FILE, save_receipts


class RegionDesk:
    """Takes papers for a folder."""

    def __init__(self, folder: FederationFolder) -> None:
        self._folder, self._authority = folder, load_certificate(folder.authority)

    def take(self, body: bytes) -> bytes:
        """Keep papers and return what the gateway has seen. Raises Refused, and keeps nothing then."""
        folder = self._folder
        try:
            papers = read_region_papers(body)
            kept = read_roster(folder.roster.read_bytes(), self._authority)
            # "A roster is signed, and never older than the one before it."
            roster = read_roster(papers.roster.encode(), self._authority, minimum_serial=kept.serial)
            receipts = {site: parse_receipt(line.encode()) for site, line in papers.receipts.items()}
        except (ValueError, RosterError, AuditError):
            raise Refused("papers") from None
        self._keep(papers, roster, receipts)
        end = load_certificate(folder.server).not_valid_after_utc
        return write_region_news(RegionNews(read_versions(folder.versions), read_refusals(folder.refusals), end))

    def _keep(self, papers: RegionPapers, roster: Roster, receipts: dict[str, Receipt]) -> None:
        folder = self._folder
        for site, certificate in papers.certificates.items():
            # "A file is named by a site of the roster", and so by nothing else that a file could be.
            if site in roster.names:
                _write(folder.certificate_of(site), certificate.encode())
        if receipts:
            save_receipts(folder.received, receipts)
        else:
            (folder.received / RECEIPTS_FILE).unlink(missing_ok=True)
        # A site that the roster names finds its papers there.
        _write(folder.roster, papers.roster.encode())


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_file(path, content, mode=PUBLIC_MODE)
