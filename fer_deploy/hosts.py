"""Host headers: which names a server on the loopback may answer to.

A page of another site can point its own name at this machine (DNS rebinding) and then read what a local server answers,
because the browser takes both for one site. Its requests still carry the foreign name in their Host header. A server on
the loopback therefore answers only to names of this machine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s\[\]:@/?#\\]+)(?::[0-9]{0,5})?")


def is_loopback(host: str) -> bool:
    """Whether a name or an address, without a port, is `localhost` or an address of the loopback.

    >>> is_loopback("localhost"), is_loopback("127.3.2.1"), is_loopback("[::1]"), is_loopback("example.org")
    (True, True, True, False)
    """
    name = host.lower().removesuffix(".")
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def resolves_to_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine only."""
    if is_loopback(host):
        return True
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return is_loopback(str(found[0][4][0]))


def may_answer(header: str, allowed: Collection[str] = ()) -> bool:
    """Whether a server on the loopback may answer a request with this Host header.

    Args:
        header: the header's value, with or without a port.
        allowed: further names that the user allows, without ports; `*` allows all.

    >>> may_answer("127.0.0.1:8000"), may_answer("evil.example"), may_answer("fer.example:80", ["fer.example"])
    (True, False, True)
    """
    if "*" in allowed:
        return True
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    name = match["name"]
    return is_loopback(name) or name.lower().removesuffix(".") in {other.lower() for other in allowed}
