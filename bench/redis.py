"""The parts of the Redis protocol (RESP) that the load generator uses: XADD, and XREADGROUP with XACK.

A stream with one consumer group is the nearest that Redis has to a topic with one channel. Acknowledged entries stay
in the stream (nothing is trimmed here): that spares Redis a deletion which the other brokers do.
"""

from __future__ import annotations

import re

import attrs

from bench.link import Link, LoadError

__all__ = ["GROUP", "GroupReader", "RedisLink", "add_command", "command"]

GROUP = "ch"
_added = re.compile(rb"(?:\$\d+\r\n\d+-\d+\r\n)*")
_entries = re.compile(rb"\*1\r\n\*2\r\n\$\d+\r\n[^\r]*\r\n\*(\d+)\r\n")
_acknowledged = re.compile(rb":(\d+)\r\n")


def command(*words: str | bytes) -> bytes:
    """A command as an array of bulk strings."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def add_command(stream: str, body: bytes) -> bytes:
    return command("XADD", stream, "*", "m", body)


class RedisLink(Link):
    """Counts the responses to XADD: each must be the id of an entry."""

    def count_replies(self, data: bytes) -> int:
        data = self.rest + data
        match = _added.match(data)
        end = match.end() if match else 0
        rest = data[end:]
        if rest and not rest.startswith(b"$"):
            raise LoadError(f"the server answered {rest[:100]!r}")
        self.rest = rest
        return data.count(b"$", 0, end)

    def ask(self, *words: str | bytes) -> bytes:
        """Send one command and return the line of its response; `LoadError` for an error."""
        self.send(command(*words))
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.receive()
        if line.startswith(b"-"):
            raise LoadError(f"the server answered {line[:100]!r}")
        return line

    def make_group(self, stream: str) -> None:
        """Create a group that begins at the first entry of the stream, which is created if necessary."""
        self.ask("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")


@attrs.define
class GroupReader:
    """Reads up to `depth` entries at a time until `budget` are acknowledged.

    The XACK of what came and the next XREADGROUP leave in one write.
    """

    link: RedisLink
    stream: str
    name: str
    body: bytes
    budget: int
    depth: int = 1
    acknowledged: int = 0
    _asked_to_acknowledge: int = 0
    _entry: re.Pattern[bytes] = attrs.field(init=False)
    _expected: int = -1
    """Entries of the incomplete reply; -1 before its head is read."""
    _ids: list[bytes] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._entry = re.compile(
            rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*2\r\n\$1\r\nm\r\n\$%d\r\n%s\r\n"
            % (len(self.body), re.escape(self.body))
        )

    def start(self) -> None:
        self._read_next(b"")

    def readable(self) -> None:
        data = self.link.rest + self.link.receive()
        at = self._take_acknowledgement(data)
        if at < 0:
            return
        if self._expected < 0:
            head = _entries.match(data, at)
            if head is None:
                self._keep(data[at:], b"*", limit=200)
                return
            self._expected, at = int(head[1]), head.end()
        while len(self._ids) < self._expected and (entry := self._entry.match(data, at)):
            self._ids.append(entry[1])
            at = entry.end()
        self._keep(data[at:], b"*", limit=len(self.body) + 200)
        if len(self._ids) == self._expected:
            self._acknowledge()

    def _take_acknowledgement(self, data: bytes) -> int:
        """Skip the response to the last XACK; returns the position after it, or -1."""
        if not self._asked_to_acknowledge:
            return 0
        match = _acknowledged.match(data)
        if match is None:
            self._keep(data, b":", limit=20)
            return -1
        if int(match[1]) != self._asked_to_acknowledge:
            raise LoadError(f"{match[1].decode()} of {self._asked_to_acknowledge} entries were acknowledged")
        self.acknowledged += self._asked_to_acknowledge
        self._asked_to_acknowledge = 0
        self.link.rest = data[match.end() :]
        return match.end() if match.end() < len(data) else -1

    def _keep(self, rest: bytes, first: bytes, limit: int) -> None:
        """Check the beginning and the length of an incomplete response."""
        if rest and (not rest.startswith(first) or len(rest) > limit):
            raise LoadError(f"the server answered {rest[:100]!r}")
        self.link.rest = rest

    def _acknowledge(self) -> None:
        ids, self._ids, self._expected = self._ids, [], -1
        self.budget -= len(ids)
        self._asked_to_acknowledge = len(ids)
        self._read_next(command("XACK", self.stream, GROUP, *ids))

    def _read_next(self, before: bytes) -> None:
        read = b""
        if count := min(self.depth, self.budget):
            read = command(
                "XREADGROUP", "GROUP", GROUP, self.name, "COUNT", str(count), "BLOCK", "0",
                "STREAMS", self.stream, ">",
            )  # fmt: skip
        self.link.send(before + read)
