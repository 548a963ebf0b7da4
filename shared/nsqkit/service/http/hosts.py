"""Names of hosts in `Host` and `Origin`: which of them are this daemon's own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import attrs

__all__ = ["OwnHosts", "name_and_port", "name_and_port_of_origin"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.define(eq=False)
class OwnHosts:
    """IP addresses, `localhost` and the name of this machine are its own, and those that the options name."""

    allowed: Sequence[str]
    """Names, alone or with a port, in any case."""
    name: str = ""
    """Another name of this daemon."""
    _machine: str = attrs.field(factory=lambda: socket.gethostname().lower(), init=False)

    def has(self, name: str, port: int) -> bool:
        """Whether a name, in lower case, is one of them."""
        return self.is_own(name) or self.is_allowed(name, port)

    def is_own(self, name: str) -> bool:
        """Whether it needs no option."""
        if not name:
            return False
        if name in ("localhost", self.name.lower(), self._machine) or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def is_allowed(self, name: str, port: int) -> bool:
        """Whether the options name it, alone or with this port."""
        return any(each.lower() in (name, f"{name}:{port}") for each in self.allowed)


def name_and_port(host: bytes, default_port: int) -> tuple[str, int]:
    """The parts of `Host`, with the name in lower case and without a dot at the end. A strange port is -1."""
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, port = text, str(default_port)
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    return name.strip("[]").removesuffix("."), number if port else default_port


def name_and_port_of_origin(origin: bytes) -> tuple[str, int]:
    """The same of `Origin`. The name of one that cannot be read (`null`) is empty."""
    try:
        url = urlsplit(origin.decode("ascii"))
    except ValueError:
        return "", -1
    return name_and_port(url.netloc.encode(), _DEFAULT_PORTS.get(url.scheme, -1))
