"""The models that a study has announced to its sites: `models.jsonl`, only ever appended to, and the signature for it.

A link is on the disk before a site can see it, so that the coordinator never has to tell another story after a kill.
"""

from __future__ import annotations

import json
from pathlib import Path

from permmoe.errors import ConfigurationError
from permmoe.federated.model_chain import PURPOSES, Announcement, Link, head_of, sign_head
from permmoe.runtime.files import PUBLIC_MODE, append_line, write_file
from permmoe_server.provisioning.authority import Identity

MODELS_FILE = "models.jsonl"


class ModelRegister:
    """The chain of one study in its folder; one process at a time may use it."""

    def __init__(self, path: Path, study: str, server: Identity) -> None:
        """Take up the chain of a study, by its digest, where it was left; `server` signs.

        Raises ConfigurationError for a file that was damaged.
        """
        self._path, self._study, self._server = path, study, server
        self._links = _read_whole(path)
        self._announced: Announcement | None = None

    def announce(self, link: Link) -> Announcement:
        """The signed chain with this link in it, once it is on the disk.

        A link that is there already is not added again: a round that is run again after a kill sends the same model.
        Another model for the same work is. Raises OSError where the disk is full; then nothing was announced.
        """
        if link not in self._links:
            append_line(self._path, json.dumps(vars(link), separators=(",", ":")).encode(), mode=PUBLIC_MODE)
            self._links, self._announced = (*self._links, link), None
        if self._announced is None:
            server = self._server
            head = head_of(self._study, self._links)
            signed = sign_head(head, server.key, server.certificate, server.certificate_pem.decode())
            self._announced = Announcement(self._links, signed)
        return self._announced


def _read_whole(path: Path) -> tuple[Link, ...]:
    """The links of a file; a last line that a kill cut short is taken out of it, since no site has seen it."""
    content = path.read_bytes() if path.exists() else b""
    whole, _, torn = content.rpartition(b"\n")
    if torn:
        write_file(path, whole + b"\n" if whole else b"", mode=PUBLIC_MODE)
    return read_links(path)


def read_links(path: Path) -> tuple[Link, ...]:
    """The models that a study with this file has announced, in order; none where there is no file. Nothing is changed.

    Raises ConfigurationError for a file that was damaged.
    """
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    try:
        return tuple(_link(line) for line in whole.splitlines())
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ConfigurationError(
            f"{path} was damaged: sites will not go on with this study; restore the file, or start the study under "
            "another name"
        ) from None


def _link(line: bytes) -> Link:
    values = json.loads(line)
    link = Link(int(values["round"]), PURPOSES[PURPOSES.index(values["purpose"])], str(values["model"]))
    if len(link.model) != 64 or not 0 < link.round < 1 << 32:
        raise ValueError
    bytes.fromhex(link.model)
    return link
