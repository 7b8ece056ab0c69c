"""What a coordinator clears before it starts its programs."""

from __future__ import annotations

from pathlib import Path

from permmoe.runtime.files import UNFINISHED_PREFIX
from permmoe_server.coordination.programs import prepare
from permmoe_server.provisioning.federation_folder import FederationFolder


def test_unfinished_files_of_a_killed_process_are_removed_and_logs_stay(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path)
    folder.logs.mkdir(parents=True)
    unfinished = folder.state / f"{UNFINISHED_PREFIX}3q7x"
    unfinished.write_bytes(b"half a secr")
    log = folder.logs / "gateway.log"
    log.write_text("refused rule=path")
    prepare(folder)
    assert not unfinished.exists() and log.exists()
    assert folder.executor_secret.stat().st_size == 32
