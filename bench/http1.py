"""POST /pub on a kept-alive connection, one request at a time."""

from __future__ import annotations

import re

from bench.link import Link, LoadError

__all__ = ["HttpLink", "pub_request"]

_content_length = re.compile(rb"(?i)\r\ncontent-length: *(\d+) *\r\n")


def pub_request(topic: str, body: bytes) -> bytes:
    head = f"POST /pub?topic={topic} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class HttpLink(Link):
    """Counts replies with status 200 and body OK. Equal ones (same second in the Date) are only compared."""

    _last_good = b""

    def count_replies(self, data: bytes) -> int:
        if data == self._last_good and not self.rest:
            return 1
        data = self.rest + data
        body_at, end = _extent(data)
        if not end or len(data) < end:
            self.rest = data
            return 0
        if data[body_at:] != b"OK":
            raise LoadError(f"the server answered {data[body_at:][:100]!r}")
        self.rest = b""
        self._last_good = data
        return 1

    def read_reply(self) -> bytes:
        """Wait for one reply with status 200, and return its body."""
        data, body_at, end = b"", 0, 0
        while not end or len(data) < end:
            data += self.receive()
            body_at, end = _extent(data)
        return data[body_at:end]


def _extent(data: bytes) -> tuple[int, int]:
    """Start and end of the body of a reply; zeros while its head is incomplete."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return 0, 0
    if not data.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 200\r\n")):
        raise LoadError(f"the server answered {data[:300]!r}")
    length = _content_length.search(data, 0, head_end + 2)
    if not length:
        raise LoadError(f"no Content-Length in {data[:300]!r}")
    return head_end + 4, head_end + 4 + int(length[1])
