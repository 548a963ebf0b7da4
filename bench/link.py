"""Sockets of the load generator, and a cheap loop that serves many of them.

Rules:
- Sockets are blocking with time limits in the kernel (SO_RCVTIMEO, SO_SNDTIMEO): Python's own time-outs
  cost a `poll` before each call. Nothing waits longer than `STALL_SECONDS`.
- Requests are encoded beforehand; replies are counted in bulk by the protocol's `count_replies`, which
  checks every one of them. Anything that is not the expected answer raises `LoadError`, and that fails the
  row.
- One process, one thread: its CPU is then one number, and it is reported beside each row.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

__all__ = ["STALL_SECONDS", "Handler", "Link", "LoadError", "Loop", "Producer"]

STALL_SECONDS = 30
UNLIMITED = 1 << 62
# One buffer for all reads: a `recv` of this size would allocate as much each time, which costs more than
# the read.
_buffer = bytearray(1 << 18)
_view = memoryview(_buffer)


class LoadError(Exception):
    """The server sent a wrong response, or none."""


class Link:
    """One TCP connection. `rest` is the part of a reply that was cut by the end of a read.

    Subclasses implement `count_replies(data)`: how many whole replies end in this data; LoadError for a
    wrong one.
    """

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=STALL_SECONDS)
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = struct.pack("@ll", STALL_SECONDS, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self.rest = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        """At least one byte; LoadError when the server closed the connection or is silent for too long."""
        try:
            size = self.sock.recv_into(_buffer)
        except BlockingIOError:
            raise LoadError(f"the server sent nothing for {STALL_SECONDS} s") from None
        if not size:
            raise LoadError("the server closed the connection")
        return bytes(_view[:size])

    def count_replies(self, data: bytes) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self.sock.close()


class Handler(Protocol):
    """A handler of the loop: it has a link, and is called when that is readable."""

    @property
    def link(self) -> Link: ...

    def readable(self) -> None: ...


@attrs.define
class Producer:
    """Keeps `depth` requests in flight on one link: each reply lets it send a new one."""

    link: Link
    request: bytes
    depth: int = 1
    budget: int = UNLIMITED
    """Requests that may still be sent; with 0 it waits for the replies to those in flight."""
    replies: int = 0
    waiting: int = 0

    def start(self) -> None:
        self._send(self.depth)

    def readable(self) -> None:
        done = self.link.count_replies(self.link.receive())
        if done > self.waiting:
            raise LoadError(f"{done} replies for {self.waiting} requests")
        self.replies += done
        self.waiting -= done
        if done and self.budget:
            self._send(done)

    def _send(self, count: int) -> None:
        count = min(count, self.budget)
        if count:
            self.budget -= count
            self.waiting += count
            self.link.send(self.requests(count))

    def requests(self, count: int) -> bytes:
        """The next requests, `count` of them."""
        return self.request * count


class Loop:
    """Calls `readable` of the handlers whose sockets are readable."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self._handlers: dict[int, Callable[[], None]] = {
            handler.link.sock.fileno(): handler.readable for handler in handlers
        }
        self._poller = select.epoll()
        for descriptor in self._handlers:
            self._poller.register(descriptor, select.EPOLLIN)
        # A lone connection just blocks in its read: an epoll_wait more would be in every latency and rate
        # of it.
        self.turn = next(iter(self._handlers.values())) if len(self._handlers) == 1 else self._poll_turn

    def run_for(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        turn = self.turn
        while time.perf_counter() < end:
            turn()

    def run_until(self, finished: Callable[[], bool]) -> None:
        turn = self.turn
        while not finished():
            turn()

    def serve_for(self, seconds: float) -> None:
        """As `run_for`, but input is not required."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for descriptor, _ in self._poller.poll(left):
                self._handlers[descriptor]()

    def close(self) -> None:
        self._poller.close()

    def _poll_turn(self) -> None:
        ready = self._poller.poll(STALL_SECONDS)
        if not ready:
            raise LoadError(f"the server sent nothing for {STALL_SECONDS} s")
        for descriptor, _ in ready:
            self._handlers[descriptor]()
