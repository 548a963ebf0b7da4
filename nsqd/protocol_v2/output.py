"""The frames of one session on their way to its socket, in clear or through the layers of an upgrade.

In clear a frame counts as taken once the socket took its first byte; the others go back to the channel when the
connection ends. Through layers a frame counts as taken once it is encoded. Frames are encoded `PIECE` bytes at a time,
as the socket takes them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from nsqd.protocol_v2.layers import Layers
from nsqd.protocol_v2.session import Session
from nsqkit.wire.frames import is_message

__all__ = ["PIECE", "Output", "PeerClosed", "unsent_frames"]

PIECE: Final = 64 * 1024

_NOTHING: Final = memoryview(b"")


class PeerClosed(Exception):
    """The socket takes nothing more: the connection is broken."""


class Output:
    """What a connection sends. If something `waits` after a call, `run_pending` sends it when the socket takes more."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.layers: Layers | None = None
        self._sock = sock
        self._session = session
        self._frames: list[bytes] = []  # on their way
        self._taken = 0  # bytes of them that the socket has, or the layers
        self._unencoded = _NOTHING  # bytes of them that the layers have not
        self._rest = _NOTHING  # bytes that the socket has not: of frames in clear, or encoded
        self._counted = 0  # bytes of all that waits, as the session's holding has them

    @property
    def waits(self) -> bool:
        """Whether something waits until the socket takes more."""
        return bool(self._rest or self._unencoded)

    @property
    def backpressured(self) -> bool:
        """Whether TLS's own answers pile up untaken: then nothing is read that it would answer."""
        return self.layers is not None and len(self._rest) > 2 * PIECE

    def send(self) -> bool:
        """Send what the session's outbox holds, unless something waits. Returns `waits`. `PeerClosed`, `LayerError`."""
        if self._rest or self._unencoded or (self.layers is not None and not self.layers.ready):
            self.count()
            return self.waits
        frames = self._session.outbox.take()
        if not frames:
            return False
        # One send for all: copying costs less than a system call for each.
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        self._frames, self._taken = frames, 0
        if self.layers is not None:
            self._unencoded = memoryview(data)
            self._encode()
            return self.waits
        sent = self._offer(data)
        self._session.sent(sent)
        if waits := sent < len(data):
            self._taken, self._rest = sent, memoryview(data)[sent:]
            self._session.blocked(True)
            self.count()
        else:
            self._frames = []
        return waits

    def run_pending(self) -> None:
        """The socket takes more. `PeerClosed`, `LayerError`."""
        if not self._rest:
            self._encode()
            self.count()
            return
        sent = self._offer(self._rest)
        if not sent:
            return
        self._rest = self._rest[sent:]
        self._session.blocked(self.waits)
        if self.layers is None:
            self._taken += sent
            if not self._rest:
                self._frames = []
            self._session.sent(sent)
        elif not self._rest:
            self._all_encoded_sent()
        self.count()

    def transmit(self, data: bytes) -> None:
        """Send bytes that are encoded, or TLS's own, after those that wait. `PeerClosed`."""
        if not data:
            return
        sent = 0 if self._rest else self._offer(data)
        if sent < len(data):
            if not self._rest:
                self._session.blocked(True)
            self._rest = memoryview(bytes(self._rest) + data[sent:])
            self.count()

    def count(self) -> None:
        """Tell what waits: called when that changes while the socket is full, also by more frames of the session."""
        waiting = 0
        if self.waits:
            # In clear `size` includes the rest; through layers it has what is not encoded and sent completely.
            waiting = self._session.outbox.size + (len(self._rest) if self.layers is not None else 0)
        change, self._counted = waiting - self._counted, waiting
        self._session.holding.add(change)

    def withdraw_messages(self) -> list[bytes]:
        """Take back the messages of which nothing is on its way yet, and return them. Answers stay, in their order."""
        unsent = unsent_frames(self._frames, self._taken)
        outbox = self._session.outbox
        withdrawn = [frame for frame in (*unsent, *outbox.items) if is_message(frame)]
        if not withdrawn:
            return []
        if any(map(is_message, unsent)):
            kept = [frame for frame in unsent if not is_message(frame)]
            waiting = self._rest if self.layers is None else self._unencoded
            begun = len(waiting) - sum(map(len, unsent))  # the rest of a frame that is partly on its way
            left = memoryview(b"".join((waiting[:begun], *kept)))
            self._frames = self._frames[: len(self._frames) - len(unsent)] + kept
            if self.layers is not None:
                self._unencoded = left
                if not self.waits:
                    self._all_encoded_sent()
            else:
                self._rest = left
                if not left:
                    self._frames = []
                    self._session.blocked(False)
        outbox.items = [frame for frame in outbox.items if not is_message(frame)]
        outbox.size -= sum(map(len, withdrawn))
        self.count()
        return withdrawn

    def abandon(self) -> list[bytes]:
        """The connection ends. Returns the frames that were never on their way."""
        unsent = unsent_frames(self._frames, self._taken) + self._session.outbox.take()
        self._frames, self._rest, self._unencoded = [], _NOTHING, _NOTHING
        self.layers = None
        self.count()
        return unsent

    def _encode(self) -> None:
        """The next piece of the frames, through the layers."""
        assert self.layers is not None
        # A piece at a time: encoding all at once would hold up the other connections, for a client that may not read.
        piece, self._unencoded = bytes(self._unencoded[:PIECE]), self._unencoded[PIECE:]
        self._taken += len(piece)
        self.transmit(self.layers.encode(piece))
        if not self._rest:
            self._all_encoded_sent()

    def _all_encoded_sent(self) -> None:
        """The socket has all that is encoded; when that is all of the frames, the session is told."""
        self._session.blocked(bool(self._unencoded))
        if self._frames and not self._unencoded:
            self._frames = []
            self._session.sent(self._taken)

    def _offer(self, data: bytes | memoryview) -> int:
        """How many bytes of it the socket takes now. `PeerClosed`."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise PeerClosed from error


def unsent_frames(sending: Sequence[bytes], taken: int) -> list[bytes]:
    """Of the frames that were being sent, those of which the socket took not one byte.

    `taken`: how many bytes it took of all of them, one after the other.
    """
    for index, frame in enumerate(sending):
        if taken <= 0:
            return list(sending[index:])
        taken -= len(frame)
    return []
