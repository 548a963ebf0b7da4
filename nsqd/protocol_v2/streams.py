"""A connection as two trio tasks round a session: for streams that are no plain sockets, and where there is no epoll.

One task reads and feeds the session, the other writes what gathers in its outbox. The session is the same as for the
plain connections, and so is what a client sees.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.session import Session
from nsqd.protocol_v2.unsent import unsent_frames
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger

__all__ = ["serve_stream"]

log = get_logger("client")

CHUNK: Final = 64 * 1024
LINGER: Final = 2.0  # seconds for a client to read the last error before the connection is torn down


async def serve_stream(
    stream: trio.abc.HalfCloseableStream, context: Context, rounds: Rounds, remote: str, remote_ip: str
) -> None:
    """Serve one client until either side ends it. Never raises for what the client or the network does."""
    rounds.begin()
    connection = _StreamConnection(stream, context, rounds, remote, remote_ip)
    rounds.end()
    log.info("TCP: new client(%s)", remote)
    try:
        await connection.run()
    finally:
        rounds.begin()
        connection.end()
        rounds.end()
        with trio.move_on_after(LINGER) as scope:
            scope.shield = True
            await trio.aclose_forcefully(stream)
        log.info("PROTOCOL(V2): [%s] exiting", remote)


class _StreamConnection:
    """A stream and its session."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        context: Context,
        rounds: Rounds,
        remote: str,
        remote_ip: str,
    ) -> None:
        self.stream = stream
        self.context = context
        self.rounds = rounds
        self.session = Session(context, remote, remote_ip, lambda: rounds.awake.append(self))
        self.alarm_at = math.inf
        context.sessions[self.session] = None
        self._to_send = trio.Event()
        self._may_read = trio.Event()
        self._sending: list[bytes] = []
        self._taken = 0
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    await self._write()
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            except* Exception:
                log.exception("[%s] closing after an error of ours", self.session.remote)

    def flush(self) -> None:
        """The end of a round: there may be something to send, or the end to come."""
        self._to_send.set()
        self._may_read.set()
        if self.session.closed:
            self._scope.cancel()

    async def _read(self) -> None:
        session, rounds = self.session, self.rounds
        while not session.closing and not session.closed:
            if not session.wants_input:
                self._may_read = trio.Event()
                await self._may_read.wait()
                continue
            data = await self.stream.receive_some(CHUNK)
            rounds.begin()
            if data:
                session.feed(bytes(data))
            else:
                session.eof()
            rounds.end()
            self._to_send.set()

    async def _write(self) -> None:
        session = self.session
        while True:
            items = session.outbox.take()
            if items:
                await self._send(items)
            elif session.finished:
                break
            else:
                self._to_send = trio.Event()
                await self._to_send.wait()
        if not session.closed:
            await self._linger()

    async def _send(self, items: list[bytes]) -> None:
        session, rounds = self.session, self.rounds
        data = b"".join(items)
        self._sending = items
        self.context.buffered += len(data)
        try:
            for at in range(0, len(data), CHUNK):
                piece = data[at : at + CHUNK]
                # How much of a piece was taken is not known when its send fails: it counts as delivered, all of it.
                self._taken = at + len(piece)
                rounds.begin()
                session.blocked(True)
                rounds.end()
                await self.stream.send_all(piece)
        finally:
            self.context.buffered -= len(data)
        self._sending = []
        rounds.begin()
        session.blocked(False)
        session.sent(len(data))
        rounds.end()
        self._may_read.set()

    async def _linger(self) -> None:
        """Let the client read the last error: closing with unread input would destroy it."""
        with trio.move_on_after(LINGER):
            await self.stream.send_eof()
            while await self.stream.receive_some(CHUNK):
                pass

    def end(self) -> None:
        unsent = unsent_frames(self._sending, self._taken) + self.session.outbox.take()
        self.session.end(unsent)
        self.context.sessions.pop(self.session, None)
