"""A command that has not arrived in full: its bytes so far, and how many must come before another look at it pays.

The bytes count in the `Holding` of the connection, for the limit that all connections share. A multi-publish is scanned
while its pieces arrive, each message once, so that a body in thousands of pieces costs no more than one in a single
piece, and a bad inner size is refused when its four bytes are there.
"""

from __future__ import annotations

import attrs

from nsqd.protocol_v2.buffers import Holding
from nsqd.protocol_v2.framing import MultiScan
from nsqkit.wire import ProtocolError

__all__ = ["PartialCommand"]


@attrs.define(eq=False, repr=False)  # its text would hold secrets
class PartialCommand:
    """What one session has read and not carried out. `max_msg_size`: bytes of a message."""

    _holding: Holding
    _max_msg_size: int
    data: bytearray = attrs.field(factory=bytearray)
    need: int = 0
    """Bytes without which another look is useless; 0: not known."""
    scan: MultiScan | None = None
    """Where the scan of a multi-publish stopped, in positions of `data`."""

    _counted: int = 0
    """Bytes of `data` that are in the holding."""

    def add(self, data: bytes | memoryview) -> None:
        """More of it. To be counted (`count`) if it stays, which a complete command does not."""
        self.data += data

    def count(self) -> None:
        """Count what has been added; others, or this connection itself, may have to give way."""
        change, self._counted = len(self.data) - self._counted, len(self.data)
        self._holding.add(change)

    def is_ready(self) -> bool:
        """Whether another look at it pays. `ProtocolError` for a bad size within a multi-publish."""
        if len(self.data) < self.need:
            return False
        return self.scan is None or self.scan.advance(self.data, self._max_msg_size)

    def take(self) -> bytes:
        """Everything, which it then no longer has."""
        data = bytes(self.data)
        self.drop()
        return data

    def drop(self) -> None:
        self.data = bytearray()
        self.need = 0
        self.scan = None
        self.count()

    def cut_off(self) -> ProtocolError | None:
        """The error for an input that ended in the middle of a command's body."""
        newline = self.data.find(b"\n")
        if newline < 0:
            return None
        # A whole line is only left here by a command whose body is not whole.
        name = bytes(self.data[:newline]).split(b" ")[0].decode("ascii", "replace").rstrip("\r")
        left = len(self.data) - newline - 1
        if name in ("IDENTIFY", "AUTH"):
            what = "body size" if left < 4 else "body"
            return ProtocolError("E_BAD_BODY", f"{name} failed to read {what}")
        if name in ("PUB", "DPUB"):
            what = "message body size" if left < 4 else "message body"
            return ProtocolError("E_BAD_MESSAGE", f"{name} failed to read {what}")
        if name != "MPUB":
            return None
        if left < 4:
            return ProtocolError("E_BAD_BODY", "MPUB failed to read body size")
        if left < 8:
            return ProtocolError("E_BAD_BODY", "MPUB failed to read message count")
        scan = self.scan
        if scan is None or len(self.data) - scan.position < 4:
            index = scan.index if scan is not None else 0
            return ProtocolError("E_BAD_MESSAGE", f"MPUB failed to read message({index}) body size")
        return ProtocolError("E_BAD_MESSAGE", "MPUB failed to read message body")
