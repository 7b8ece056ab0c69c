"""The bundle that Flower wants for a run: a pointer to the apps that are installed already. It holds no code.

Flower starts whatever bundle it is given. Here every program on the way knows the digest of this one and refuses any
other: the superlink does not store it, the executor does not start it, and the study's process does not look into it.
"""

from __future__ import annotations

import hashlib
from functools import cache

from flwr.cli.build import build_fab_from_files
from flwr.supercore.fab import Fab

POINTER = """\
[project]
name = "permmoe"
version = "0.1.0"
description = "Names the apps that are installed already; holds no code."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "permmoe"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "permmoe_server.app:app"
clientapp = "permmoe_client.app:app"

[tool.flwr.app.config]
plan = ""
out = ""
sites = ""
standing = ""
stop = ""
roster = ""
authority = ""
server-key = ""
server-certificate = ""
regions = ""
"""


@cache
def pointer() -> Fab:
    """Return the bundle; its bytes, and so its digest, are the same in every process."""
    content, _ = build_fab_from_files({"pyproject.toml": POINTER.encode()})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def is_pointer(content: bytes) -> bool:
    """Whether a bundle is ours, to the last bit."""
    return hashlib.sha256(content).hexdigest() == pointer().hash_str
