"""The site's connection is the one place that depends on how Flower works inside."""

from __future__ import annotations

import re
from pathlib import Path

CLIENT = Path(__file__).parents[3] / "client" / "permmoe_client"
PRIVATE_NAMES = r"^\s*(?:from|import) flwr\.(?!clientapp\b|app import|common\.constant import ErrorCode)"


def test_no_other_file_of_the_client_uses_private_names_of_flower() -> None:
    users = {file.name for file in CLIENT.rglob("*.py") if re.search(PRIVATE_NAMES, file.read_text(), re.MULTILINE)}
    assert users == {"fleet.py"}
