"""The parts of the NATS JetStream protocol that the load generator uses: publish with acknowledgement, pull, ack.

A stream on files with one durable pull consumer is the nearest that JetStream has to a topic with one channel.
Acknowledged messages stay in the stream (its default, `limits`), which spares it a deletion. An ack has no answer; how
many are worked off is asked of the consumer's state.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import attrs

from bench.link import Link, LoadError

__all__ = ["DURABLE", "NatsLink", "Puller"]

DURABLE = "ch"
INBOX = "_INBOX.bench"
MAX_ACK_PENDING = 100_000
ACK_WAIT_NS = 60_000_000_000
SETTLE_SECONDS = 20
LONGEST_HEAD = 300  # bytes

_acknowledged = re.compile(rb'(?:MSG \S+ \d+ +\d+\r\n\{"stream":"\w+", ?"seq":\d+\}\r\n)*')


class NatsLink(Link):
    """A connection that receives the responses to its requests; counts acknowledged publishes."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.inbox = f"{INBOX}.{self.sock.getsockname()[1]}"
        try:
            hello = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
            lines = f"CONNECT {json.dumps(hello)}\r\nSUB {self.inbox}.* 1\r\nPING\r\n"
            self.send(lines.encode())
            data = b""
            while not data.endswith(b"PONG\r\n"):
                data += self.receive()
                if b"-ERR" in data:
                    raise LoadError(f"the server answered {data[-100:]!r}")
        except BaseException:
            self.close()
            raise

    def publish_command(self, subject: str, body: bytes) -> bytes:
        """A publish whose acknowledgement is sent to this connection."""
        return f"PUB {subject} {self.inbox}.answer {len(body)}\r\n".encode() + body + b"\r\n"

    def count_replies(self, data: bytes) -> int:
        """Count publishes that the stream has acknowledged; PINGs between them are answered."""
        rest, count = self.rest + data, 0
        while True:
            match = _acknowledged.match(rest)
            end = match.end() if match else 0
            count += rest.count(b'"seq":', 0, end)
            rest = rest[end:]
            if not rest.startswith(b"PING\r\n"):
                break
            self.send(b"PONG\r\n")
            rest = rest[6:]
        if not _begins_well(rest) or b'"error"' in rest or b"503\r\n" in rest:
            raise LoadError(f"the server answered {rest[:200]!r}")
        self.rest = rest
        return count

    def ask(self, subject: str, question: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request to the JetStream API; LoadError for an error."""
        self.send(self.publish_command(subject, json.dumps(question).encode() if question else b""))
        answer: dict[str, Any] = json.loads(self._next_payload())
        if "error" in answer:
            raise LoadError(f"the server answered {answer['error']}")
        return answer

    def _next_payload(self) -> bytes:
        """The payload of the next message; PINGs before it are answered."""
        data = self.rest
        while True:
            while data.startswith(b"PING\r\n"):
                self.send(b"PONG\r\n")
                data = data[6:]
            if not _begins_well(data):
                raise LoadError(f"the server answered {data[:200]!r}")
            head, ended, body = data.partition(b"\r\n")
            if ended and len(body) >= (end := int(head.split()[-1])) + 2:
                self.rest = body[end + 2 :]
                return body[:end]
            data += self.receive()

    def make_stream(self, stream: str) -> None:
        """A stream on files, and a durable consumer that begins at its first message."""
        self.ask(f"$JS.API.STREAM.CREATE.{stream}", {"name": stream, "subjects": [stream], "storage": "file"})
        config = {
            "durable_name": DURABLE,
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_NS,
            "max_ack_pending": MAX_ACK_PENDING,
        }
        self.ask(
            f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{DURABLE}", {"stream_name": stream, "config": config}
        )

    def wait_until_acknowledged(self, stream: str, count: int) -> None:
        """Return once the consumer's state has the first `count` messages as acknowledged."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.ask(f"$JS.API.CONSUMER.INFO.{stream}.{DURABLE}")["ack_floor"]["stream_seq"] < count:
            if time.monotonic() > deadline:
                raise LoadError(f"not all messages were acknowledged after {SETTLE_SECONDS} s")
            time.sleep(0.001)


@attrs.define
class Puller:
    """Pulls up to `depth` messages at a time until `budget` have come, and acknowledges each at once.

    More are asked for when half of them have come, for a consumer may have 512 requests waiting at the most.
    """

    link: NatsLink
    stream: str
    body: bytes
    budget: int
    depth: int = 1
    received: int = 0
    _missing: int = 0
    _message: re.Pattern[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._message = re.compile(
            rb"(?:MSG \S+ \d+ (\$JS\.ACK\.\S+) %d\r\n%s\r\n|(PING)\r\n)"
            % (len(self.body), re.escape(self.body))
        )

    def start(self) -> None:
        self.link.send(self._pull(self.depth))

    def readable(self) -> None:
        data = self.link.rest + self.link.receive()
        at, acks = 0, []
        out = b""
        while message := self._message.match(data, at):
            at = message.end()
            if message[1]:
                acks.append(message[1])
            else:
                out += b"PONG\r\n"
        rest = data[at:]
        if not _begins_well(rest) or len(rest) > len(self.body) + LONGEST_HEAD:
            raise LoadError(f"the server answered {rest[:200]!r}")
        self.link.rest = rest
        if acks:
            self.received += len(acks)
            self._missing += len(acks)
            out += b"PUB " + b" 0\r\n\r\nPUB ".join(acks) + b" 0\r\n\r\n"
        if self._missing * 2 >= self.depth:
            out += self._pull(self._missing)
            self._missing = 0
        if out:
            self.link.send(out)

    def _pull(self, count: int) -> bytes:
        count = min(count, self.budget)
        self.budget -= count
        if not count:
            return b""
        question = b'{"batch":%d}' % count
        return self.link.publish_command(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{DURABLE}", question)


def _begins_well(rest: bytes) -> bool:
    """Whether this can be the beginning of a message or of a PING."""
    return b"MSG ".startswith(rest[:4]) or b"PING".startswith(rest[:4])
