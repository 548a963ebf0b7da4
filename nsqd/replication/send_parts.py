"""What a sender has taken, onto its connection: frames from memory, and pieces of files.

Rules:

- Frames are joined, so that a round's small pieces are one send. A piece of a file goes from the page cache into a
  plain socket without a copy of ours (sendfile); other streams are given what is read.
- What is before a piece goes out in the same packets: the follower is not woken for a few bytes.
- What may have to be read from the disk is sent, or read, in a thread.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from functools import partial

import trio

from nsqd.log.file_storage import OpenFile
from nsqd.replication.ship import Piece

__all__ = ["send_parts"]


async def send_parts(stream: trio.abc.Stream, parts: Sequence[bytes | Piece], *, cold: bool) -> None:
    """Send all of them, in their order. `cold`: the files may not be in memory. `OSError`, `BrokenResourceError`."""
    plain = stream.socket if isinstance(stream, trio.SocketStream) else None
    joined: list[bytes] = []
    for part in parts:
        if not isinstance(part, Piece):
            joined.append(part)
        elif plain is None or not isinstance(part.file, OpenFile):
            joined.append(await trio.to_thread.run_sync(part.read) if cold else part.read())
        else:
            if joined:
                await _send_more(plain, b"".join(joined))
                joined.clear()
            await _send_file(plain, part.file, part.offset, part.size, cold=cold)
    if joined:
        await stream.send_all(b"".join(joined))


async def _send_more(plain: trio.socket.SocketType, data: bytes) -> None:
    """Send this, and let the system wait for what follows."""
    rest = memoryview(data)
    while rest:
        rest = rest[await plain.send(rest, socket.MSG_MORE) :]


async def _send_file(
    plain: trio.socket.SocketType, file: OpenFile, offset: int, size: int, *, cold: bool
) -> None:
    end = offset + size
    while offset < end:
        send = partial(file.send, plain.fileno(), offset, end - offset)
        try:
            sent = await trio.to_thread.run_sync(send) if cold else send()
        except BlockingIOError:
            # The system holds back the last packet until more comes, which it has no room for: for 200 ms, unless it
            # is pushed, as setting this does.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await trio.lowlevel.wait_writable(plain)
            continue
        if not sent:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), file.path)
        offset += sent
