"""Who is at the other end of a connection, as far as its address says."""

from __future__ import annotations

import functools
import ipaddress


def address_text(client: tuple[str, int] | None) -> str:
    """The address of a socket's other end, without the port."""
    return client[0] if client else "unknown"


@functools.lru_cache(maxsize=1024)
def network_of(peer: str) -> str:
    """The network that one party surely holds: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(getattr(address, "ipv4_mapped", None) or address)
