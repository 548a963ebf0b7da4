"""Requests of several clients that are answered together, in one task: an epoll of its own, inside trio's.

For routes that have a `batch` handler. A task for each connection costs a trip through the scheduler for each request,
and a request of its own costs what several could share: a producer that sends one small message at a time spends more
on both than on its message. So idle connections wait here. One task reads those that have become readable, has all
requests of a route answered with one call, and sends the responses.

**What is answered here is parsed by comparison.** A producer sends the same head again and again, but for the length of
the body. When a connection has been answered in the usual way, it remembers the head (`KnownHeads`). Input that is this
head with a body of the length that it gives, and nothing else, is the same request with another body, whatever is in
the head. Everything else, as a piece of a request, a second request behind it, or another header, goes the usual way:
the task of the connection gets the bytes that were read.

A connection is registered with the epoll only while it waits here. When the handler declines, or the client does not
take its response at once, it is the turn of its task, too.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterable
from time import perf_counter
from typing import Final, Protocol

import trio
from attrs import define, field

from nsqkit.logging import get_logger
from nsqkit.service.http.message import Request, Response, Route, error
from nsqkit.turns import Turns, request_turns

__all__ = ["Batching", "KnownHeads", "Waiting"]

_log = get_logger("http")

_EVENTS: Final = 64
_SLICE: Final = 0.002  # seconds until other tasks have their turn
_HEAD_BYTES: Final = 1024
_HEADS: Final = 4  # of one connection
_END_OF_HEAD: Final = b"\r\n\r\n"
# Not in any case of letters, which would take four times as long: other spellings go the usual way.
_LENGTH: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,9})\r\n")
_CRASHED: Final = error(500, "INTERNAL_ERROR")


@define(slots=True, eq=False)
class KnownHeads:
    """Heads of requests that this connection has sent, and the requests that they became."""

    _requests: dict[bytes, Request] = field(factory=dict, init=False)

    def note(self, data: bytes, request: Request) -> None:
        """`data` was this request from its first byte to its last one, and it was answered in the usual way."""
        parts = _split(data)
        if parts is None or parts[1] != len(request.body) or not _may_be_repeated(request):
            return
        if len(self._requests) >= _HEADS:
            self._requests.clear()
        request.body = b""
        self._requests[parts[0]] = request

    def match(self, data: bytes) -> Request | None:
        """The request that `data` is, if it is one of these, with another body; its headers are those of the first.

        The same object again and again: the caller takes its body away when it is answered.
        """
        parts = _split(data)
        if parts is None or (request := self._requests.get(parts[0])) is None:
            return None
        route, limit = request.route, request.route.body_limit
        if limit is None or parts[1] > (limit if isinstance(limit, int) else limit()):
            return None
        if route.check is not None and route.check(request) is not None:
            del self._requests[parts[0]]  # a refusal is recorded: the next ones only once
            return None
        request.body = data[-parts[1] :] if parts[1] else b""
        return request


def _split(data: bytes) -> tuple[bytes, int] | None:
    """The head without the length of the body, and that length. None if it is not the one that follows."""
    end = data.find(_END_OF_HEAD, 0, _HEAD_BYTES) + len(_END_OF_HEAD)
    match = _LENGTH.search(data, 0, end)
    if match is None:
        return None
    start, stop = match.span(1)
    size = int(data[start:stop])
    return (data[:start] + data[stop:end], size) if len(data) - end == size else None


def _may_be_repeated(request: Request) -> bool:
    """Whether nothing but the body can tell the next request with this head from this one."""
    plain = request.version == "1.1" and request.keep_alive and request.refusal is None
    return (
        plain
        and request.route.batch is not None
        and request.header(b"expect") is None
        and request.header(b"upgrade") is None
    )


class Waiting(Protocol):
    """A connection that waits for its client's next request."""

    @property
    def fd(self) -> int:
        """The descriptor of its socket."""

    def receive_now(self) -> bytes | None:
        """What has arrived; None if nothing has, empty at the end."""

    def match(self, data: bytes) -> Request | None:
        """The request that this input is, if it may be answered here."""

    def answer_now(self, response: Response, now: float) -> bool:
        """Send a response. False if it has left something to send, or to find out. `now`: by trio's clock."""


@define(slots=True, eq=False)
class _Place:
    """Of a connection that waits. `data`: what its task gets."""

    connection: Waiting
    task: trio.lowlevel.Task
    data: bytes | None = None


@define(slots=True, eq=False)
class Batching:
    """The idle connections of one server. `run` must run while one of them waits."""

    _epoll: select.epoll = field(factory=select.epoll, init=False)
    _waiting: dict[int, _Place] = field(factory=dict, init=False)
    """By descriptor; registered with the epoll as long as they are here."""
    _turns: Turns = field(factory=request_turns, init=False)

    async def wait(self, connection: Waiting) -> bytes | None:
        """Wait for input of this client that is not answered here; empty at the end.

        None if a response was not sent completely: it is with the connection.
        """
        fd = connection.fd
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as failure:  # no room for one more watched descriptor
            _log.warning("HTTP: a connection is closed - %s", failure)
            return b""
        place = self._waiting[fd] = _Place(connection, trio.lowlevel.current_task())

        def stop_waiting(_: object) -> trio.lowlevel.Abort:
            self._forget(fd)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(stop_waiting)
        return place.data

    async def run(self) -> None:
        """Until cancelled."""
        poll = self._epoll.poll
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            began = perf_counter()
            while events := poll(0, _EVENTS):
                self._serve(events)
                if (spent := perf_counter() - began) > _SLICE:
                    break
            else:
                spent = perf_counter() - began
            self._turns.spent(spent)

    def close(self) -> None:
        """Nobody waits any more."""
        self._epoll.close()

    def _serve(self, events: Iterable[tuple[int, int]]) -> None:
        """Answer what can be answered here, and wake the tasks of the others."""
        requests: dict[Route, list[tuple[Waiting, Request, bytes]]] = {}
        crowded = self._turns.crowded  # then each has to wait for its turn
        for fd, _ in events:
            connection = self._waiting[fd].connection
            data = connection.receive_now()
            if data is None:
                continue
            request = connection.match(data) if data and not crowded else None
            if request is None:
                self._wake(fd, data)
            else:
                requests.setdefault(request.route, []).append((connection, request, data))
        for route, taken in requests.items():
            self._answer(route, taken)

    def _answer(self, route: Route, taken: list[tuple[Waiting, Request, bytes]]) -> None:
        assert route.batch is not None
        began = perf_counter()
        responses: Iterable[Response | None]
        try:
            responses = route.batch([request for _, request, _ in taken])
        except Exception:
            _log.exception("HTTP: %s crashed", taken[0][1].path)
            responses = [_CRASHED] * len(taken)
        now = trio.current_time()
        for (connection, request, data), response in zip(taken, responses, strict=True):
            request.body = b""
            if response is None:
                self._wake(connection.fd, data)
                continue
            if route.access_log is not None:
                route.access_log(request, response.status, perf_counter() - began)
            if not connection.answer_now(response, now):
                self._wake(connection.fd, None)

    def _wake(self, fd: int, data: bytes | None) -> None:
        place = self._forget(fd)
        place.data = data
        trio.lowlevel.reschedule(place.task)

    def _forget(self, fd: int) -> _Place:
        self._epoll.unregister(fd)
        return self._waiting.pop(fd)
