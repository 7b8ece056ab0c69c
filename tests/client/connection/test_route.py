"""Which way leads to the coordinator, as the settings and the environment say."""

from __future__ import annotations

import httpx
import pytest

from permmoe_client.connection.route import proxy_for
from permmoe_client.site import Coordinator


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://proxy.example:3129", "proxy.example:3129"),
        ("proxy.example", "proxy.example:3128"),
        ("http://user:s3cret@10.0.0.7:8080", "10.0.0.7:8080"),
        ("http://[fd00::7]:8080", "[fd00::7]:8080"),
    ],
)
def test_a_proxy_is_an_address_that_can_be_connected_to_and_shows_no_password(address: str, shown: str) -> None:
    proxy = proxy_for(Coordinator(host="fl.example.org", proxy=address), {})
    assert proxy and str(proxy) == shown and "s3cret" not in repr(proxy)
    url = httpx.Proxy(f"http://{proxy}").url
    assert (url.host, url.port) == (proxy.host, proxy.port)
