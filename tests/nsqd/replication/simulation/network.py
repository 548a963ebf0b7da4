"""Connections in virtual time: bytes arrive in order and late, in one direction, in both, or never."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final

import attrs

from nsqd.replication.wire import GREETING, Frame, Frames, encode

__all__ = ["End", "Lost", "Network"]

WINDOW: Final = 20_000  # bytes that are on their way at most


class Lost(Exception):
    """The connection is no more. The text is for the story."""


@attrs.define(eq=False)
class _Way:
    """One direction. `items`: when they arrive, and bytes; the empty ones are the end."""

    source: str
    target: str
    items: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    size: int = 0
    closed: bool = False


@attrs.define(eq=False)
class End:
    """One side of a connection. `heard_at`: when the last bytes came."""

    network: Network
    out: _Way
    incoming: _Way
    heard_at: float
    _frames: Frames = attrs.field(factory=Frames)

    def __attrs_post_init__(self) -> None:
        self._frames.feed(GREETING)

    @property
    def has_room(self) -> bool:
        return self.out.size < WINDOW

    def send(self, *frames: Frame) -> None:
        self.send_bytes(b"".join(map(encode, frames)))

    def send_bytes(self, data: bytes) -> None:
        if data:
            self.network.put(self.out, data)

    def receive(self) -> Frame | None:
        """The next frame; None when none has arrived. `Lost`, `WireError`."""
        while (frame := self._frames.take()) is None:
            data = self.receive_bytes()
            if data is None:
                return None
            self._frames.feed(data)
        return frame

    def receive_bytes(self) -> bytes | None:
        """What comes next, as it was sent; None when nothing has arrived. `Lost`."""
        data = self.network.take(self.incoming)
        if data is None:
            return None
        if not data:
            raise Lost("the connection was closed")
        self.heard_at = self.network.now
        return data

    def close(self) -> None:
        """The other side hears of it, unless this machine is off."""
        self.incoming.items.clear()
        self.incoming.closed = True
        if not self.out.closed:
            self.network.put(self.out, b"")
            self.out.closed = True


@attrs.define(eq=False)
class Network:
    """`cut`: until when nothing arrives in a direction (source, target). `off`: machines without power."""

    chance: random.Random
    now: float = 0.0
    cut: dict[tuple[str, str], float] = attrs.field(factory=dict)
    slow: dict[tuple[str, str], float] = attrs.field(factory=dict)
    """Seconds that bytes are on their way at most; a fiftieth without an entry."""
    off: set[str] = attrs.field(factory=set)
    listening: set[str] = attrs.field(factory=set)
    _new: dict[str, list[End]] = attrs.field(factory=dict)
    _ways: list[_Way] = attrs.field(factory=list)

    def connect(self, source: str, target: str) -> End:
        """`Lost` when it is refused; one that nobody answers is silent."""
        if target not in self.listening and target not in self.off and not self.is_cut(source, target):
            raise Lost("refused")
        out, back = _Way(source, target), _Way(target, source)
        self._ways = [way for way in (*self._ways, out, back) if not way.closed]
        if target in self.listening:
            self._new.setdefault(target, []).append(End(self, back, out, self.now))
        return End(self, out, back, self.now)

    def arrivals(self, target: str) -> list[End]:
        """New connections of which something has arrived."""
        waiting = self._new.pop(target, [])
        arrived = [end for end in waiting if self._has_arrived(end.incoming)]
        self._new[target] = [end for end in waiting if end not in arrived]
        for end in arrived:
            end.heard_at = self.now
        return arrived

    def process_ended(self, name: str) -> None:
        """Nobody listens there; who had connected, and was not served yet, is turned away."""
        self.listening.discard(name)
        for end in self._new.pop(name, []):
            end.close()

    def break_some(self) -> bool:
        """A connection is lost: of what was on its way a part arrives, then its end."""
        open_ways = [way for way in self._ways if not way.closed]
        if not open_ways:
            return False
        one = self.chance.choice(open_ways)
        for way in open_ways:
            if {way.source, way.target} == {one.source, one.target}:
                while way.items and self.chance.random() < 0.7:
                    way.size -= len(way.items.pop()[1])
                if way.items:
                    at, data = way.items.pop()
                    kept = data[: self.chance.randrange(len(data) + 1)]
                    way.size -= len(data) - len(kept)
                    if kept:
                        way.items.append((at, kept))
                self.put(way, b"")
                way.closed = True
        return True

    def lose_some(self) -> tuple[str, str] | None:
        """A connection is half-open from now on: nothing arrives, and neither side is told. Returns their names."""
        open_ways = [way for way in self._ways if not way.closed]
        if not open_ways:
            return None
        one = self.chance.choice(open_ways)
        for way in open_ways:
            if {way.source, way.target} == {one.source, one.target}:
                way.items.clear()
                way.size = WINDOW
                way.closed = True
        return one.source, one.target

    def next_arrival(self) -> float:
        """When something arrives that has not yet; infinite when nothing is on its way."""
        now = self.now
        return min(
            (way.items[0][0] for way in self._ways if way.items and way.items[0][0] > now), default=math.inf
        )

    def is_cut(self, source: str, target: str) -> bool:
        return self.cut.get((source, target), 0.0) > self.now

    def put(self, way: _Way, data: bytes) -> None:
        if way.closed or way.source in self.off:
            return
        most = self.slow.get((way.source, way.target), 0.02)
        at = self.now + self.chance.random() * most
        if way.items:
            at = max(at, way.items[-1][0])
        way.items.append((at, data))
        way.size += len(data)

    def take(self, way: _Way) -> bytes | None:
        if not self._has_arrived(way):
            return None
        data = way.items.popleft()[1]
        way.size -= len(data)
        return data

    def _has_arrived(self, way: _Way) -> bool:
        return bool(way.items) and way.items[0][0] <= self.now and not self.is_cut(way.source, way.target)
