"""Addresses of nsqds, `host:port` with IPv6 addresses in brackets, and the local address to connect from."""

from __future__ import annotations

import ipaddress
import re

import attrs

__all__ = ["Address", "local_host"]

_LOCAL = re.compile(r"(?:\[(?P<ip>.*)\]|(?P<name>[\w.-]+))(?::0)?")


@attrs.frozen(order=True)
class Address:
    """Host and TCP port of an nsqd. The pair identifies the nsqd, as everywhere in NSQ."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in `host:port`; an IPv6 host needs brackets. `ValueError` for anything else."""
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
    """The host in a local address, `host` or (as go-nsq writes it) `host:0`. Empty: the system chooses.

    `ValueError` for anything else, including a port other than 0: when a connection is made anew, the port would
    still be in use by the old one.
    """
    if not text or _is_ip(text):  # also an IPv6 address without brackets
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
