"""One socket and its session, and between them nothing or the layers of an upgrade.

Rules:
- All calls are plain ones within a round. An exception of any kind ends this connection and no other.
- Input is decoded `CHUNK` bytes a turn, however few bytes it was compressed to. What is sent goes through `Output`.
- The epoll is asked only for what is wanted: no input while the session wants none, output while some waits.

An upgrade: the session has agreed to one and reads nothing more, and its answer has left. The bytes after the IDENTIFY
are for the new layers. With TLS the handshake comes first, and must be over in `HANDSHAKE` seconds; nothing else is
sent meanwhile. Its steps have a queue of their own, as each costs a millisecond. Then one OK goes through each new
layer, and the session reads again.

A client that has closed its side, or is to be closed after a fatal error, is a consumer no more: messages that have not
left are withdrawn, and all of them go back to the channel at once. Answers still leave, for some time.

After a fatal error the connection lingers: its sending side is shut down, and input is thrown away until the client
closes too. A socket that is closed with unread input would be reset, and the error frame lost with it.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
from typing import Final, Protocol

from nsqd.protocol_v2.commands import ALLOWED
from nsqd.protocol_v2.context import Context
from nsqd.protocol_v2.layers import LayerError, Layers
from nsqd.protocol_v2.output import Output, PeerClosed
from nsqd.protocol_v2.phase import ENDED, SessionPhase
from nsqd.protocol_v2.session import Session
from nsqd.rounds import Rounds
from nsqkit.logging import get_logger
from nsqkit.service.shares import remote_group
from nsqkit.wire import OK

__all__ = ["CHUNK", "HANDSHAKE", "ClientConnection", "ConnectionServer"]

log = get_logger("client")

CHUNK: Final = 256 * 1024
STRANGER_CHUNK: Final = 16 * 1024  # bytes that are read at once of a client that has yet to authenticate
HANDSHAKE: Final = 5.0  # seconds
LINGER: Final = 2.0  # seconds for a client to read the last error before the connection is torn down
LINGER_BYTES: Final = 1 << 20

_IN, _OUT, _RDHUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
_HUNG_UP: Final = _RDHUP | select.EPOLLHUP | select.EPOLLERR
_READING: Final = SessionPhase.READING
_YIELDED: Final = SessionPhase.YIELDED


class ConnectionServer(Protocol):
    """What a connection needs of the loop that serves it."""

    context: Context
    rounds: Rounds
    epoll: select.epoll
    chunk: int
    """Bytes that are read at once: a turn of one connection."""
    unfinished: dict[ClientConnection, None]

    handshakes: dict[ClientConnection, None]

    def resume_soon(self, connection: ClientConnection) -> None:
        """It has bytes that were read and not worked through: no event of its socket will tell."""

    def shake_hands_soon(self, connection: ClientConnection) -> None:
        """It has bytes for its TLS handshake, which costs much: `resume` it when it is its turn."""

    def closed(self, connection: ClientConnection) -> None:
        """It is being closed."""


class ClientConnection:
    """The driver of one session. `remote`: the peer's address, `ip:port` or `@`."""

    def __init__(self, server: ConnectionServer, sock: socket.socket, remote: str) -> None:
        self.server = server
        self.sock = sock
        self.fd = sock.fileno()
        self.group = remote_group(remote)
        self.session = Session(server.context, ALLOWED, remote, self._wake)
        self.output = Output(sock, self.session)
        self._events = _IN
        self._at_end = False  # of the input: nothing more comes from the socket
        self._hung_up = False  # the client sends nothing more, though there may be something to read
        self.lingers = False  # the session has ended, its last answers are to be read
        self._lingered = 0
        self.alarm_at = math.inf
        log.info("TCP: new client(%s)", remote)

    @property
    def layers(self) -> Layers | None:
        """What an upgrade has put between the socket and the session."""
        return self.output.layers

    def _wake(self) -> None:
        self.server.rounds.awake.append(self)

    def on_event(self, what: int) -> None:
        """The socket can be read or written."""
        try:
            if what & _OUT and self.output.waits:
                self._continue()
            if what & _HUNG_UP and not self._wants_bytes:
                self._on_hang_up()
            elif what & ~_OUT:
                self._read()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """It ends this connection only, also when the error is ours."""
        if isinstance(error, LayerError):
            log.info("[%s] closing: %s", self.session.remote, error)
            if self.layers is not None:
                with contextlib.suppress(PeerClosed):
                    self.output.transmit(self.layers.encode(b""))  # the alert of TLS
        elif not isinstance(error, PeerClosed):
            log.error("[%s] closing: internal error", self.session.remote, exc_info=error)
        self.close()

    # --- reading

    def _read(self) -> None:
        session = self.session
        if not self._wants_bytes:
            self._watch()  # since the last event more has gathered than the socket takes
            return
        if self in self.server.unfinished:  # it has enough to do, and its turn comes
            return
        try:
            # One read an event: what is left in the socket makes another event, after the other connections' turn.
            data = self.sock.recv(STRANGER_CHUNK if session.stranger else self.server.chunk)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if self.lingers:
            self._discard(len(data))
        elif self.layers is not None:
            self.layers.feed(data)
            self._at_end = not data
            if self._handshaking:
                self.server.shake_hands_soon(self)
                self._watch()
            else:
                self._decode()
        elif not data:
            session.eof()
            self._watch()
        else:
            session.feed(data)
            if session.phase is _YIELDED:
                self.server.resume_soon(self)
            if self._events != _IN:
                self._wake()  # the socket is full: what is answered now is to be counted when the round ends
            if not session.wants_input:
                self._watch()

    def _discard(self, count: int) -> None:
        """Bytes after a fatal error: read and thrown away, so that the error is not lost to a reset."""
        self._lingered += count
        if not count or self._lingered > LINGER_BYTES:
            self.close()

    def resume(self) -> None:
        """Bytes were left over when others had their turn, or when the session wanted none."""
        if self.fd < 0 or self.lingers:
            return
        try:
            if self.session.phase is _YIELDED and self.session.wants_input:
                self.session.feed(b"")
            if self.session.phase is _YIELDED and self.session.wants_input:
                self.server.resume_soon(self)
            elif self.layers is not None:
                self._decode()
            elif not self.session.wants_input:
                self._watch()  # it is resumed when it is watched again
        except Exception as error:
            self._failed(error)

    def _decode(self) -> None:
        """Feed the session what the layers have."""
        layers, session = self.layers, self.session
        assert layers is not None
        if not layers.ready and not self._shake_hands():
            if self._at_end and self.layers is not None:
                self._handshake_failed("EOF")
            return
        budget = CHUNK  # of decoded bytes: a few compressed ones may stand for a thousand times as many
        while budget > 0 and session.phase is not _YIELDED and session.wants_input:
            if not (data := layers.decode(budget)):
                break
            session.feed(data)
            budget -= len(data)
        if (budget <= 0 or session.phase is _YIELDED) and session.wants_input:
            self.server.resume_soon(self)
        elif session.wants_input and (self._at_end or layers.ended):
            session.eof()
        session.left_undecoded(layers.undecoded)
        if self._events != _IN:
            self._wake()
        self._transmit(layers.encode(b""))  # what TLS itself answers

    def _on_hang_up(self) -> None:
        """The client has closed its side while its input was not wanted, as too much waits for it.

        It may never take that, so its messages must not wait for it. Without them what it sent before can be read.
        """
        self._hung_up = True
        self.session.withdraw(self.output.withdraw_messages())
        self._watch()

    # --- writing

    def flush(self) -> None:
        """Send what waits, as much as the socket takes."""
        if self.fd < 0:
            return
        try:
            if self.session.phase in ENDED and self.session.subscription is not None:
                self.session.unsubscribe(self.output.withdraw_messages())
            if self.output.send() or self._events != _IN:
                self._watch()
            if self.session.phase is not _READING:
                self._on_flushed()
        except Exception as error:
            self._failed(error)

    def _on_flushed(self) -> None:
        """The session may wait for this: to end, or to get its layers."""
        session = self.session
        if session.finished:
            self._finish()
        elif session.phase is SessionPhase.UPGRADING and self.layers is None and session.flushed:
            self._upgrade()

    def _continue(self) -> None:
        """The socket takes more."""
        self.output.run_pending()
        if not self.output.waits:
            self._wake()
        self._watch()

    def _transmit(self, data: bytes) -> None:
        """Bytes of the layers."""
        self.output.transmit(data)
        self._watch()

    def _watch(self) -> None:
        """Tell the epoll what we wait for now."""
        if self.fd < 0:
            return
        events = _OUT if self.output.waits else 0
        if self._wants_bytes:
            events |= _IN
        elif not self._hung_up and self.session.phase not in ENDED:
            events |= _RDHUP
        if events == self._events:
            return
        if not events:  # a hang-up is reported even for an empty mask: only unregistering stops it
            self.server.epoll.unregister(self.fd)
        elif not self._events:
            self.server.epoll.register(self.fd, events)
        else:
            self.server.epoll.modify(self.fd, events)
        # Perhaps something is left of what was read before; in a handshake nothing is.
        left = (self.layers is not None and self.layers.ready) or self.session.phase is _YIELDED
        if left and events & _IN and not self._events & _IN:
            self.server.resume_soon(self)
        self._events = events

    @property
    def _wants_bytes(self) -> bool:
        """Whether the socket is to be read."""
        wanted = self.lingers or self.session.wants_input
        if not wanted and self._handshaking:
            wanted = self not in self.server.handshakes
        return wanted and not self.output.backpressured

    # --- upgrades

    @property
    def _handshaking(self) -> bool:
        return self.layers is not None and not self.layers.ready

    def _upgrade(self) -> None:
        """The answer to IDENTIFY has left: put the layers in."""
        session, context = self.session, self.server.context
        assert session.upgrade is not None
        layers = self.output.layers = Layers(session.upgrade, context.tls)
        if self._handshaking:
            context.broker.timers.set(self, context.broker.now + HANDSHAKE)
        else:
            self._upgraded()
        if unread := session.take_unread():
            layers.feed(unread)
            if self._handshaking:
                self.server.shake_hands_soon(self)
            else:
                self.server.resume_soon(self)
        self._watch()

    def _shake_hands(self) -> bool:
        """Continue the TLS handshake; True when it is done, and the session reads again."""
        layers = self.layers
        assert layers is not None
        try:
            done = layers.handshake()
        except LayerError as error:
            self._handshake_failed(str(error))
            return False
        if done:
            self._upgraded()
        else:
            self._transmit(layers.encode(b""))
        return done

    def _upgraded(self) -> None:
        """Announce it, with an OK through each of the new layers."""
        layers, session = self.layers, self.session
        assert layers is not None
        data = layers.encode(OK) if layers.upgrade.tls else b""
        if layers.upgrade.compresses:
            layers.compress()
            data += layers.encode(OK)
        self._transmit(data)
        self.server.context.broker.timers.cancel(self)
        session.upgraded(layers)
        self._wake()  # a heartbeat may have waited

    def _handshake_failed(self, reason: str) -> None:
        """TLS sends its alert, if it can, and then a frame says it in clear."""
        layers = self.layers
        assert layers is not None
        alert, self.output.layers = layers.encode(b""), None
        self.server.context.broker.timers.cancel(self)
        self._transmit(alert)
        if self.output.waits:  # the client has not even taken the handshake: a frame after it means nothing
            self.close()
        else:
            self.session.upgrade_failed(reason)

    # --- the end

    def _finish(self) -> None:
        """Everything is sent: close, but let the client read it first."""
        if self.lingers:
            return
        if self.session.closed:
            self.close()
            return
        if self.layers is not None:
            self._transmit(self.layers.goodbye())
            if self.output.waits:
                return
        self.lingers = True
        self._end_session()
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._watch()
        broker = self.server.context.broker
        broker.timers.set(self, broker.now + LINGER)

    def alarm(self, now: float) -> None:
        """The client had its time: for the handshake, or to read the last error."""
        try:
            if self._handshaking:
                self._handshake_failed("i/o timeout")
            else:
                self.close()
        except Exception as error:
            self._failed(error)

    def close(self) -> None:
        """Close at once. Messages of which the socket took nothing go back to their channel."""
        if self.fd < 0:
            return
        if self._events:
            self.server.epoll.unregister(self.fd)
        self.server.closed(self)
        self.fd = -1
        self.server.context.broker.timers.cancel(self)
        if not self.lingers:
            self._end_session()
        self.sock.close()
        log.info("PROTOCOL(V2): [%s] exiting", self.session.remote)

    def _end_session(self) -> None:
        """It is no client any more, even while it has yet to read the last error."""
        self.session.end(self.output.abandon())
