"""Which addresses may be dialled, where somebody else than the operator says where to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


class Forbidden(OSError):
    """The address is none that may be dialled."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Which addresses may be dialled: public ones, and these networks; `plain`: http too, not https alone."""

    allowed: tuple[str, ...] = ()
    plain: bool = False

    def permits(self, text: str) -> bool:
        address = bare(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in ipaddress.ip_network(network) for network in self.allowed):
            return True
        return address.is_global and not address.is_multicast and not is_tunnel(address)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
TUNNELS = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 networks whose addresses lead to IPv4 ones, private ones among them."""


def bare(address: Address) -> Address:
    """What `::ffff:127.0.0.1` stands for."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_tunnel(address: Address) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and any(address in network for network in TUNNELS)
