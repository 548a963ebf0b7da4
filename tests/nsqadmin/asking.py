"""A request as handlers get it, without a connection."""

from __future__ import annotations

from nsqkit.service.http import Request, Route, text

__all__ = ["request"]


def request(remote: str = "127.0.0.1:5", *headers: tuple[bytes, bytes], method: str = "POST") -> Request:
    """A request from this address, with these headers."""
    route = Route(handler=lambda _: text(""))
    return Request(method, b"/x", "/x", b"", list(headers), "1.1", remote, False, True, {}, route)
