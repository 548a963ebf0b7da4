"""Addresses of nsqd: `host:port`, with IPv6 addresses in brackets."""

from __future__ import annotations

import attrs

__all__ = ["Address"]


@attrs.frozen(order=True)
class Address:
    """Where an nsqd listens; the pair is what tells one from another."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`ValueError` for anything but `host:port`."""
        host, colon, port = text.strip().rpartition(":")
        if not colon:
            raise ValueError(f"missing port in address {text!r}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"an IPv6 address needs brackets, as in [::1]:4150, not {text!r}")
        if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError(f"not host:port: {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
