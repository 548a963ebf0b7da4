"""Limits of the HTTP server on bytes, times and connections of its clients.

Every wait for a client and every buffer is bounded. One sweeper task checks all times, because a timer for each request
(`trio.move_on_after`) costs about as much as parsing the request. So a time may be exceeded by `Limits.sweep_seconds`.
"""

from __future__ import annotations

import math
from typing import Protocol

from attrs import define, field, validators

from nsqkit.service.descriptors import http_share

__all__ = ["ByteBudget", "ConnectionShare", "Limits"]


@define(slots=True, frozen=True, kw_only=True)
class Limits:
    """Limits of one server, in seconds and bytes."""

    head_bytes: int = field(default=64 * 1024, validator=validators.gt(0))
    """Request line and headers together; also chunk extensions and trailers between two pieces of a body."""

    header_count: int = field(default=100, validator=validators.gt(0))

    drain_bytes: int = field(default=256 * 1024, validator=validators.ge(0))
    """Body that is read and discarded to keep the connection, if the route does not use a body."""

    handshake_seconds: float = field(default=5.0, validator=validators.gt(0))
    """From the accept of a connection to the end of its TLS handshake."""

    head_seconds: float = field(default=10.0, validator=validators.gt(0))
    """From a request's first byte (or the accept of the connection, or its TLS handshake) to the end of its head."""

    body_seconds: float = field(default=30.0, validator=validators.gt(0))
    """From the end of the head to the end of the body, plus a second for each `slowest_bytes_per_second`."""

    idle_seconds: float = field(default=75.0, validator=validators.gt(0))
    """Between two requests of a connection."""

    write_seconds: float = field(default=30.0, validator=validators.gt(0))
    """Until the kernel has taken a piece of a response, plus a second for each `slowest_bytes_per_second`."""

    slowest_bytes_per_second: int = field(default=16 * 1024, validator=validators.gt(0))

    linger_seconds: float = field(default=1.0, validator=validators.gt(0))
    """How long the input of a refused client is discarded, so that a reset does not destroy the response."""

    linger_bytes: int = field(default=4 * 1024 * 1024, validator=validators.ge(0))

    stop_seconds: float = field(default=1.0, validator=validators.gt(0))
    """For requests that are under way when the server stops."""

    connections: int = field(factory=http_share, validator=validators.gt(0))
    """Maximum of clients. One more takes the place of the one that the server has waited for longest, or gets a 503 if
    all have a request that is being answered."""

    turn_seconds: float = field(default=0.0005, validator=validators.ge(0))
    """Time that the pipelined requests of one connection may take before the other connections get their turns."""

    def body_time(self, size: int) -> float:
        """Seconds that a body of `size` bytes may take."""
        return self.body_seconds + size / self.slowest_bytes_per_second

    def write_time(self, size: int) -> float:
        """Seconds that the client may take to accept `size` bytes."""
        return self.write_seconds + size / self.slowest_bytes_per_second

    @property
    def sweep_seconds(self) -> float:
        """Interval in which deadlines are checked."""
        shortest = min(self.head_seconds, self.body_seconds, self.idle_seconds, self.write_seconds)
        return min(1.0, shortest / 4)


@define(slots=True, eq=False)
class ByteBudget:
    """The limit on the bytes of partial bodies and unsent responses of all connections together.

    One object is shared by all servers and protocols of a daemon. Requests that arrive in one piece are not counted:
    they are processed before the next read.
    """

    capacity: int = field(default=256 * 1024 * 1024, validator=validators.ge(0))
    used: int = field(default=0, init=False)

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False if there are not so many left."""
        if self.used + size > self.capacity:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Return reserved bytes."""
        assert 0 <= size <= self.used, f"giving back {size} of {self.used} bytes"
        self.used -= size


class Displaceable(Protocol):
    """A connection that may have to make room for another one."""

    waiting_since: float
    """When the server began to wait for the client's next bytes; infinite while it does not."""

    def displace(self) -> None:
        """Close the connection: it waits for the client."""


@define(slots=True, eq=False)
class ConnectionShare:
    """The connections of all servers of a daemon, which share one limit."""

    capacity: int = field(factory=http_share, validator=validators.gt(0))
    handshakes: int = field(default=0, init=False)
    """Clients in a TLS handshake. These have a short time limit, and are not displaced."""
    _connections: set[Displaceable] = field(factory=set, init=False)

    def make_room(self) -> bool:
        """Whether there is room for one more connection, perhaps because another one was displaced."""
        if len(self._connections) + self.handshakes < self.capacity:
            return True
        longest = min(self._connections, key=lambda connection: connection.waiting_since, default=None)
        if longest is None or longest.waiting_since == math.inf:
            return False
        self._connections.remove(longest)
        longest.displace()
        return True

    def add(self, connection: Displaceable) -> None:
        self._connections.add(connection)

    def discard(self, connection: Displaceable) -> None:
        """Remove a connection, which may have been displaced."""
        self._connections.discard(connection)
