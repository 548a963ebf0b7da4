"""What a leader that has come back had finished, on its way to the stand-in that serves its messages.

The follower hears it from the leader (`Finished`), and writes it to the standard input of the stand-in: a line of JSON
for each frame. All that depends on it are repetitions, so what is too much is left out.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Final

import trio

from nsqd.replication.wire import Finished, WireError
from nsqkit.decoding import decode_json

__all__ = ["FinishedElsewhere", "read_line"]

MAX_BYTES: Final = 64 << 20  # that wait for the stand-in: millions of ranges


class FinishedElsewhere:
    """Lines of one life that its stand-in was not told yet."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._news = trio.Event()

    def add(self, frame: Finished) -> None:
        """Have it told, if there is room."""
        line = json.dumps([frame.generation, frame.channel, frame.runs]).encode() + b"\n"
        if self._bytes + len(line) <= MAX_BYTES:
            self._lines.append(line)
            self._bytes += len(line)
            self._news.set()

    def take(self) -> bytes | None:
        """The next line; None when there is none."""
        if not self._lines:
            return None
        line = self._lines.popleft()
        self._bytes -= len(line)
        return line

    async def next(self) -> bytes:
        """The next line, when there is one."""
        while (line := self.take()) is None:
            self._news = trio.Event()
            await self._news.wait()
        return line


def read_line(line: bytes) -> Finished:
    """What a line says. `ValueError`."""
    try:
        return Finished(*decode_json(line))
    except (TypeError, WireError) as error:
        raise ValueError(str(error)) from error
