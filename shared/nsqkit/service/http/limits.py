"""Bounds of the HTTP server: what one client may cost in bytes, in time and in connections.

Every wait for a client has an end and every buffer has a size. Times are checked by one sweeper task for the
whole server instead of a timer for each request (a `trio.move_on_after` costs about as much as parsing a
request does), so a limit may be overrun by up to `Limits.sweep_seconds`.
"""

from __future__ import annotations

from attrs import define, field, validators

__all__ = ["ByteBudget", "Limits"]


@define(slots=True, frozen=True, kw_only=True)
class Limits:
    """Bounds of one server; seconds and bytes throughout."""

    head_bytes: int = field(default=64 * 1024, validator=validators.gt(0))
    """Request line and headers together; also chunk extensions and trailers between two pieces of a body."""

    header_count: int = field(default=100, validator=validators.gt(0))

    drain_bytes: int = field(default=256 * 1024, validator=validators.ge(0))
    """Body that is read and thrown away to keep a connection whose route has no use for a body."""

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
    """How long what a refused client still sends is thrown away, so that a reset does not eat the refusal."""

    linger_bytes: int = field(default=4 * 1024 * 1024, validator=validators.ge(0))

    stop_seconds: float = field(default=1.0, validator=validators.gt(0))
    """Grace of requests under way when the server stops."""

    connections: int = field(default=10_000, validator=validators.gt(0))
    """Clients at one time; one more is answered 503 and closed."""

    pipelined: int = field(default=64, validator=validators.gt(0))
    """Requests of one connection answered before other tasks get their turn."""

    def body_time(self, size: int) -> float:
        """Seconds that a body of `size` bytes may take."""
        return self.body_seconds + size / self.slowest_bytes_per_second

    def write_time(self, size: int) -> float:
        """Seconds that the client may take to accept `size` bytes."""
        return self.write_seconds + size / self.slowest_bytes_per_second

    @property
    def sweep_seconds(self) -> float:
        """How often the deadlines are looked at."""
        shortest = min(self.head_seconds, self.body_seconds, self.idle_seconds, self.write_seconds)
        return min(1.0, shortest / 4)


@define(slots=True, eq=False)
class ByteBudget:
    """Bytes that all connections of a daemon may hold together in partial bodies and unsent responses.

    One object is shared by every server (and protocol) of the daemon. Small requests that arrive whole are
    not counted: they are gone before the next one is read.
    """

    capacity: int = field(default=256 * 1024 * 1024, validator=validators.ge(0))
    used: int = field(default=0, init=False)

    def take(self, size: int) -> bool:
        """Count `size` bytes in; False, and nothing counted, when they do not fit any more."""
        if self.used + size > self.capacity:
            return False
        self.used += size
        return True

    def give(self, size: int) -> None:
        """Count `size` bytes out that were taken before."""
        assert 0 <= size <= self.used, f"giving back {size} of {self.used} bytes"
        self.used -= size
