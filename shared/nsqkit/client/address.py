"""Addresses of nsqd: `host:port`, with IPv6 addresses in brackets. And the one to connect from."""

from __future__ import annotations

import ipaddress
import re

import attrs

__all__ = ["Address", "local_host"]

_LOCAL = re.compile(r"(?:\[(?P<ip>.*)\]|(?P<name>[\w.-]+))(?::0)?")


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


def local_host(text: str) -> str:
    """The host of an address to connect from: `host`, or as go-nsq has it `host:0`. Empty: any.

    `ValueError` for anything else, for a port other than 0 as well: an nsqd that is connected to again would find
    it in use by the connection before.
    """
    if not text or _is_ip(text):  # a bare IPv6 address, too
        return text
    match = _LOCAL.fullmatch(text)
    if match is None or (match["name"] is None and not _is_ip(match["ip"])):
        raise ValueError(f"a local address is host or host:0, not {text!r}")
    return match["name"] or match["ip"]


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
