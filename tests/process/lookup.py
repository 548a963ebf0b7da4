"""One real `nsqlookupd` in a process of its own, as `daemon.py` has it for `nsqd`, and a small nsqd for it to hear of.

with LookupDaemon() as lookupd:
    lookupd.start()
    with Announcer.connect(lookupd.tcp_port) as nsqd:
        nsqd.identify()
        nsqd.ask(b"REGISTER orders\\n")
        assert lookupd.lookup("orders") is not None
    lookupd.kill()
    lookupd.start()  # the same ports, and nothing known
"""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs

from tests.process.daemon import HOST, Daemon
from tests.timing import patience

__all__ = ["Announcer", "LookupDaemon"]

_SIZE: Final = struct.Struct(">i")
_LONGEST_ANSWER: Final = 1 << 20


@attrs.define(eq=False)
class LookupDaemon(Daemon):
    """A registry; what `Daemon` says of starting, killing and ports holds here too."""

    data_path: Path = attrs.field(factory=Path)
    """Of no use here: there is nothing on disk."""

    def command(self) -> list[str]:
        """Give the command line of the next start."""
        command = Daemon.command(self)
        command[command.index("nsqd")] = "nsqlookupd"
        return [word for word in command if not word.startswith("--data-path=")]

    def closing_flags(self) -> list[str]:
        """Give what closes it; nothing for one that is open."""
        return self.closed.lookupd_flags(self.https_port) if self.closed is not None else []

    @property
    def lookup_address(self) -> str:
        """Give where consumers ask."""
        return f"{HOST}:{self.http_port}" if self.closed is None else f"https://{HOST}:{self.https_port}"

    def lookup(self, topic: str) -> dict[str, Any] | None:
        """Give the answer of `/lookup`; None when the topic is not known."""
        return self._json(f"/lookup?topic={topic}")

    def topics(self) -> list[str]:
        """Give all topics, sorted."""
        return sorted((self._json("/topics") or {})["topics"])

    def channels(self, topic: str) -> list[str]:
        """Give all channels of the topic, sorted."""
        return sorted((self._json(f"/channels?topic={topic}") or {})["channels"])

    def nodes(self) -> list[dict[str, Any]]:
        """Give all active producers."""
        return list((self._json("/nodes") or {})["producers"])

    def producers(self, topic: str) -> list[str]:
        """Give where the topic is to be had, as `host:tcp_port`, sorted; none when it is not known."""
        found = (self.lookup(topic) or {"producers": []})["producers"]
        return sorted(f"{producer['broadcast_address']}:{producer['tcp_port']}" for producer in found)

    def _json(self, target: str) -> dict[str, Any] | None:
        status, body = self.request("GET", target)
        if status == 404:
            return None
        assert status == 200, (target, status, body)
        answer: dict[str, Any] = json.loads(body)
        return answer


@attrs.define(eq=False)
class Announcer:
    """A blocking client of the protocol V1; `Announcer.connect` makes one, after the magic bytes."""

    sock: socket.socket

    @classmethod
    def connect(cls, port: int, within_s: float = 5.0) -> Announcer:
        """Connect over TCP; the limit is for every later read, too."""
        announcer = cls(socket.create_connection((HOST, port), patience(within_s)))
        announcer.send(b"  V1")
        return announcer

    def __enter__(self) -> Announcer:
        """Give it back: it is connected."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    @property
    def local_address(self) -> str:
        """Give its end of the connection, as the registry shows it."""
        host, port = self.sock.getsockname()[:2]
        return f"{host}:{port}"

    def close(self) -> None:
        """Close the connection; again does nothing."""
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send, and read nothing."""
        self.sock.sendall(data)

    def read(self) -> bytes:
        """Read one answer. ConnectionError when the registry closed instead, TimeoutError when it is silent."""
        size = _SIZE.unpack(self._take(_SIZE.size))[0]
        assert 0 <= size <= _LONGEST_ANSWER, f"an answer of {size} bytes: the stream is out of step"
        return self._take(size)

    def ask(self, command: bytes) -> bytes:
        """Send one command and read its answer."""
        self.send(command)
        return self.read()

    def identify(self, **fields: Any) -> dict[str, Any]:
        """Say who it is, and give what the registry says of itself."""
        described = {
            "broadcast_address": HOST,
            "tcp_port": 4150,
            "http_port": 4151,
            "version": "1.4.0",
            **fields,
        }
        body = json.dumps(described).encode()
        answer: dict[str, Any] = json.loads(self.ask(b"IDENTIFY\n" + _SIZE.pack(len(body)) + body))
        return answer

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise ConnectionResetError(f"closed after {data!r}")
            data += piece
        return data
