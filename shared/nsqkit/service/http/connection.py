"""One client connection: the loop that reads, calls handlers, and sends.

Requests are answered one after the other, in order. All requests in a slice of input are answered with one send, which
is tried at once; only bytes that the kernel does not take wait, under a deadline.

All connections share their turns on the event loop (`nsqkit.turns`): input is read when it is this connection's turn,
and pipelined requests that take longer than `Limits.turn_seconds` are continued in the next one. A connection that has
used up its last turn goes behind all others, also with new input: otherwise pipelining would bring more turns.

Time: `deadline` is the end of the current phase (head, body, idle, a write); the sweeper of the server calls `expire`
when it has passed. There is none while a handler runs: its time is up to the daemon.

End: `finish` (the server stops) closes an idle connection at once, and a busy one after the current request. When a
client is refused while it still sends, the response is sent, then its input is discarded for a bounded time: closing a
socket with unread input resets it, and the client may lose the response.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterator
from time import perf_counter

import trio
from attrs import define, field

from nsqkit.logging import get_logger
from nsqkit.service.http.batching import Batching, KnownHeads
from nsqkit.service.http.limits import ByteBudget, Limits
from nsqkit.service.http.message import NSQ_HEADER, HttpError, Request, Response, error, render
from nsqkit.service.http.parser import Phase, RequestParser, Routes
from nsqkit.service.http.streaming import ResponseStream
from nsqkit.service.http.transport import Transport
from nsqkit.turns import Turns, request_turns
from nsqkit.yielder import Yielder

__all__ = ["Connection"]

_log = get_logger("http")

_RECEIVE_BYTES = 16 * 1024
_RECEIVE_CHUNKED_BYTES = 64 * 1024
_RECEIVE_BODY_BYTES = 256 * 1024
_GATHER_BYTES = 64 * 1024
_PUSHBACK_BYTES = 16 * 1024

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CRASHED = error(500, "INTERNAL_ERROR")
_TIMED_OUT = error(408, "REQUEST_TIMEOUT")


@define(slots=True, eq=False)
class Connection:
    """A client, from its first byte to the close. Errors of the client and of handlers are not raised."""

    transport: Transport
    routes: Routes
    limits: Limits
    budget: ByteBudget
    remote: str
    secure: bool = False
    common_name: str = ""
    """In the client's certificate."""
    batching: Batching | None = None
    """Where it waits for its next request; None: alone."""

    deadline: float = field(default=math.inf, init=False)
    """Seconds of trio's clock."""
    waiting_since: float = field(default=math.inf, init=False)
    """When the wait for the client's next bytes began; infinite while there is none."""
    keep_alive: bool = field(default=True, init=False)
    """Whether the connection stays open after the current response."""

    _parser: RequestParser = field(init=False)
    _known_heads: KnownHeads = field(factory=KnownHeads, init=False)
    _turns: Turns = field(factory=request_turns, init=False)
    _turn_began: float = field(default=0.0, init=False)
    """By `perf_counter`; 0 outside of a turn."""
    _used_up: bool = field(default=False, init=False)
    """Whether the last input took longer than a turn."""
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _out: list[bytes] = field(factory=list, init=False)
    _out_bytes: int = field(default=0, init=False)
    _idle: bool = field(default=True, init=False)
    _stopping: bool = field(default=False, init=False)
    _expired: bool = field(default=False, init=False)
    _writing: bool = field(default=False, init=False)
    _phase: Phase = field(default=Phase.IDLE, init=False)
    _body_began: float = field(default=0.0, init=False)
    _pushback: bytes = field(default=b"", init=False)
    """Read while a streaming handler watched for the client's end: the next requests."""

    def __attrs_post_init__(self) -> None:
        self._parser = RequestParser(
            self.routes, self.limits, self.budget, self.remote, self.secure, self.common_name
        )

    async def run(self) -> None:
        """Serve the client until either side ends the connection, and close the transport."""
        gone = False
        try:
            with self._scope:
                await self._serve()
            if self._expired and not self._writing:
                await self._say_timed_out()
        except ConnectionError:
            gone = True  # the client has disconnected or exceeded the budget, or a response failed halfway
        except Exception:
            gone = True
            _log.exception("HTTP: connection of %s failed", self.remote)
        finally:
            self._parser.close()
            # A truncated response must not look complete.
            self.transport.close(reset=gone or self._writing)

    def finish(self) -> None:
        """The server stops: close now if idle, else after the current request."""
        self._stopping = True
        if self._idle:
            self._scope.cancel()

    def displace(self) -> None:
        """Another client needs the place: close now, without a word. To be called while the client is waited for."""
        self._scope.cancel()

    def expire(self) -> None:
        """The deadline has passed: close the connection."""
        self._expired = True
        self._scope.cancel()

    async def _serve(self) -> None:
        transport, parser = self.transport, self._parser
        self.waiting_since = trio.current_time()
        self.deadline = self.waiting_since + self.limits.head_seconds
        while True:
            if self.batching is not None and not parser.unfinished:
                data = await self._receive_in_batches(self.batching)
            else:
                size = _RECEIVE_BYTES if not parser.unfinished else self._receive_bytes()
                data = await transport.receive(size, self._turn)
            self.waiting_since = math.inf
            if not data:
                await self._answer_broken_off()
                return
            self._idle = False
            self._turn_began = perf_counter()
            self._used_up = False
            try:
                await self._work_off(data)
            finally:
                if self._turn_began:
                    self._turns.spent(perf_counter() - self._turn_began)
            data = b""  # an idle connection must not keep its last input in memory
            if not self.keep_alive or (self._stopping and not parser.unfinished):
                break
            now = trio.current_time()
            if parser.unfinished:
                self.waiting_since = now
                self._begin_wait_for_rest(now)
            else:
                self._begin_idling(now)
        if parser.phase is Phase.DEAD:
            await self._linger()

    async def _receive_in_batches(self, batching: Batching) -> bytes:
        """Input that has to be answered here, empty at the end."""
        while (data := await batching.wait(self)) is None:
            self._idle = False
            await self._flush()  # the rest of a response
            self._begin_idling(trio.current_time())
        if (wait := self._turn()) is not None:
            await wait
        return data

    @property
    def fd(self) -> int:
        """For `Batching`."""
        return self.transport.fd

    def receive_now(self) -> bytes | None:
        """For `Batching`."""
        return self.transport.receive_now(_RECEIVE_BYTES)

    def match(self, data: bytes) -> Request | None:
        """For `Batching`."""
        return self._known_heads.match(data)

    def answer_now(self, response: Response, now: float) -> bool:
        """For `Batching`."""
        self._parser.after_body = True
        self.waiting_since = now
        self.deadline = now + self.limits.idle_seconds
        wire = response.rendered()
        try:
            sent = self.transport.send_now(wire)
        except ConnectionError:
            sent = 0  # our task meets the same error
        if sent == len(wire):
            return True
        self._gather(wire[sent:])
        return False

    async def _answer_broken_off(self) -> None:
        """The client has half-closed, perhaps in the middle of a body; it may still read the response."""
        self._parser.break_off()
        await self._answer(self._parser.ready)
        await self._flush()

    def _receive_bytes(self) -> int:
        remaining = self._parser.body_remaining
        if remaining > _RECEIVE_BYTES:
            return min(remaining, _RECEIVE_BODY_BYTES)
        return _RECEIVE_BYTES if self._parser.phase is Phase.HEAD or remaining else _RECEIVE_CHUNKED_BYTES

    def _begin_idling(self, now: float) -> None:
        self._idle = True
        self._phase = Phase.IDLE
        self.waiting_since = now
        self.deadline = now + self.limits.idle_seconds

    def _begin_wait_for_rest(self, now: float) -> None:
        """A request is incomplete: its head has a fixed time, its body one that depends on its size."""
        phase = self._parser.phase
        if phase is not self._phase:
            self._phase = phase
            self._body_began = now
            self.deadline = now + self.limits.head_seconds
        if phase is Phase.BODY:
            self.deadline = self._body_began + self.limits.body_time(self._parser.body_size)

    async def _work_off(self, data: bytes) -> None:
        """Parse `data` and answer the requests in it."""
        parser, received = self._parser, data
        was_idle = not parser.unfinished
        while data:
            data = parser.feed(data)
            ready = parser.ready
            if ready:
                parser.ready = []
                self._phase = Phase.IDLE
                await self._answer(ready)
                if not self.keep_alive:
                    break
                if was_idle and not data and ready[0].route.batch is not None:
                    self._known_heads.note(received, ready[0])
            if self._pushback:
                data += self._pushback
                self._pushback = b""
        if parser.fault is not None and self.keep_alive:
            self._gather(parser.fault)
            self.keep_alive = False
        elif parser.wants_continue:
            parser.wants_continue = False
            self._gather(_CONTINUE)
        if self._out:
            rest = self._send_now()
            if rest:
                await self._send_rest(rest)

    def _turn(self) -> Awaitable[None] | None:
        """Begin a turn, see `Transport.receive`. Not a coroutine, which would cost those that need not wait."""
        return self._wait_for_turn() if self._turns.crowded else None

    async def _wait_for_turn(self) -> None:
        # The client is not to blame for the wait.
        deadline, self.deadline, self.waiting_since = self.deadline, math.inf, math.inf
        await self._turns.take(continued=self._used_up)
        self.deadline = deadline

    def _end_turn(self) -> None:
        if self._turn_began:
            self._turns.spent(perf_counter() - self._turn_began)
            self._turn_began = 0.0

    async def _next_turn(self) -> None:
        if self._turn_began:
            self._used_up = True
            self._end_turn()
            await self._flush()
            self.deadline = math.inf
            await self._turns.give_way()
        else:  # a handler had to wait, and others had their turns
            await self._turns.take()
        self._turn_began = perf_counter()

    async def _answer(self, requests: list[Request]) -> None:
        for request in requests:
            if perf_counter() - self._turn_began > self.limits.turn_seconds:
                await self._next_turn()
            access_log = request.route.access_log
            started = perf_counter() if access_log is not None else 0.0
            self.keep_alive = request.keep_alive and not self._stopping
            try:
                if request.route.stream is not None and request.refusal is None:
                    await self._before_waiting()
                    status = await request.route.stream(request, self)
                else:
                    response = self._call(request)
                    if not isinstance(response, Response):
                        await self._before_waiting()
                        response = await self._wait_for(request, response)
                    status = response.status
                    if response.pieces is None:
                        self._gather(self._render(request, response))
                    else:
                        await self._send_pieces(request, response, response.pieces)
            finally:
                if request.charged:
                    self.budget.give(request.charged)
                    request.charged = 0
            if access_log is not None:
                access_log(request, status, perf_counter() - started)
            if self._out_bytes > _GATHER_BYTES:
                await self._flush()
            if not self.keep_alive:
                return

    def _call(self, request: Request) -> Response | Awaitable[Response]:
        """Call the handler; its exceptions become responses. Not a coroutine, which would cost plain handlers."""
        try:
            return (request.refusal or request.route.handler)(request)
        except Exception as exc:
            return self._failure(request, exc)

    async def _wait_for(self, request: Request, answer: Awaitable[Response]) -> Response:
        try:
            response = await answer
            if not isinstance(response, Response):
                raise TypeError(f"a handler returned {type(response).__name__}, not a Response")
            return response
        except Exception as exc:
            return self._failure(request, exc)

    def _failure(self, request: Request, exc: Exception) -> Response:
        """The response for an exception of a handler."""
        if isinstance(exc, HttpError):
            return error(exc.status, exc.code)
        _log.error("HTTP: %s %s of %s crashed", request.method, request.path, self.remote, exc_info=exc)
        return _CRASHED

    async def _send_pieces(self, request: Request, response: Response, pieces: Iterator[bytes]) -> None:
        await self._before_waiting()
        stream, yielder = ResponseStream(request, self), Yielder()
        headers = [NSQ_HEADER, *response.headers] if response.nsq else response.headers
        await stream.start(response.status, response.content_type or b"", headers)
        if request.method == "HEAD":
            return
        for piece in pieces:
            await stream.send(piece)
            await yielder.maybe_yield()
        await stream.end()

    def _render(self, request: Request, response: Response) -> bytes:
        if self.keep_alive and request.version == "1.1" and request.method != "HEAD":
            return response.rendered()
        head_only = request.method == "HEAD"
        return render(response, request.version, keep_alive=self.keep_alive, head_only=head_only)

    async def _before_waiting(self) -> None:
        """Send the responses that are ready, so that they do not wait for a slow handler. Ends the turn."""
        self._end_turn()
        await self._flush()
        self.deadline = math.inf

    def _gather(self, wire: bytes) -> None:
        self._out.append(wire)
        self._out_bytes += len(wire)

    async def _flush(self) -> None:
        if self._out:
            rest = self._send_now()
            if rest:
                await self._send_rest(rest)

    def _send_now(self) -> memoryview | None:
        """Send the collected responses without waiting; returns what the kernel did not take."""
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        self._out = []
        self._out_bytes = 0
        sent = self.transport.send_now(data)
        return memoryview(data)[sent:] if sent < len(data) else None

    async def _send_rest(self, rest: memoryview) -> None:
        """Send the rest to a slow client, within the budget and the time for writes."""
        size = len(rest)
        if not self.budget.take(size):
            raise ConnectionError("the limit on unsent bytes of all clients is reached")
        self._writing = True
        self.deadline = trio.current_time() + self.limits.write_time(size)
        try:
            await self.transport.send_all(rest)
        finally:
            self.budget.give(size)
        self._writing = False
        self.deadline = math.inf

    async def send(self, data: bytes) -> None:
        """For streaming handlers, see `routing.Exchange`."""
        self._gather(data)
        await self._flush()

    async def wait_disconnect(self) -> None:
        """For streaming handlers, see `routing.Exchange`. Only one task at a time may call it."""
        data = self.transport.receive_now(_PUSHBACK_BYTES)
        while True:
            if data is None:
                data = await self.transport.receive(4096)
            if not data:
                self.keep_alive = False
                return
            self._pushback += data
            if len(self._pushback) > _PUSHBACK_BYTES:
                await trio.sleep_forever()
            data = None

    async def _say_timed_out(self) -> None:
        if self._parser.phase in (Phase.HEAD, Phase.BODY):
            self._gather(render(_TIMED_OUT, "1.1", keep_alive=False, head_only=False))
            with trio.move_on_after(self.limits.linger_seconds):
                await self._flush()

    async def _linger(self) -> None:
        """Discard the input of a refused client for a bounded time, until it closes the connection."""
        self._idle = True
        self.deadline = math.inf
        if self._stopping or not await self.transport.end():
            return
        left = self.limits.linger_bytes
        with trio.move_on_after(self.limits.linger_seconds):
            while left > 0:
                data = await self.transport.receive(_RECEIVE_CHUNKED_BYTES)
                if not data:
                    return
                left -= len(data)
