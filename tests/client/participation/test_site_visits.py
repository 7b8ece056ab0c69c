"""The visits that a site takes part with."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from tests.support.site_messages import instruction, trained
from tests.support.tiny_federation import MODEL, write_site


def test_a_site_may_keep_a_modality_to_itself(tmp_path: Path) -> None:
    reply = trained(write_site(tmp_path, "north", modalities=["clinical", "gene"]), instruction())
    assert "encoder/fluid" not in reply.updates and "encoder/gene" in reply.updates
    site = read_site(write_site(tmp_path, "north", modalities=["genes"]))
    with pytest.raises(ConfigurationError, match="did you mean 'gene'"):
        site_visits(site, MODEL)
