"""Network addresses of clients, as the gateway logs and limits them."""

from __future__ import annotations

import functools
import ipaddress


def peer_address(client: tuple[str, int] | None) -> str:
    """Return the IP address of a socket's other end, or `unknown` where the server does not know it."""
    return client[0] if client else "unknown"


@functools.lru_cache(maxsize=1024)
def peer_network(address: str) -> str:
    """Return what one party surely controls: an IPv4 address, or an IPv6 network of 64 bits.

    Text that is no IP address is returned as it is.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
