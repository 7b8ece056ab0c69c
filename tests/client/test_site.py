"""The settings of a site, as a hospital writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.errors import ConfigurationError
from permmoe_client.site import SiteConfig, read_site
from tests.support.tiny_federation import write_site


def test_a_site_file_with_a_typing_mistake_names_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'threads'"):
        read_site(write_site(tmp_path, "north", thread=2))


def test_paths_of_a_site_file_start_at_its_folder(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))
    assert isinstance(site, SiteConfig)
    assert (site.manifest, site.cache) == (tmp_path / "north.csv", tmp_path / "cache-north")
