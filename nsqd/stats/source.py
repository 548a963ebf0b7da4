"""The interface of the daemon to the statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from nsqd.broker import Broker
from nsqd.options import NsqdOptions
from nsqd.protocol_v2.client_stats import ClientStats
from nsqd.stats.copies import CopiesStats
from nsqd.stats.loop_lag import EventLoopLag
from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles

__all__ = ["DrainState", "StatsSource"]


class DrainState(Protocol):
    """Whether the daemon is draining, and since when (wall time, nanoseconds since 1970)."""

    @property
    def active(self) -> bool: ...
    @property
    def since_ns(self) -> int: ...


class StatsSource(Protocol):
    """The daemon, as `/stats`, `/metrics` and statsd use it."""

    @property
    def broker(self) -> Broker: ...
    @property
    def options(self) -> NsqdOptions: ...
    @property
    def version(self) -> str: ...
    @property
    def start_time_ns(self) -> int:
        """Wall time, nanoseconds since 1970."""

    @property
    def audit(self) -> AuditTrail: ...
    @property
    def drain(self) -> DrainState: ...
    @property
    def loop_lag(self) -> EventLoopLag: ...
    @property
    def copies_stats(self) -> CopiesStats | None:
        """None without copies on other nodes, and without those of others here."""

    @property
    def tls_files(self) -> Collection[TlsFiles]:
        """Those of all its listeners and connections with TLS."""

    @property
    def connection_count(self) -> int:
        """TCP connections of clients."""

    def clients(self, timings_at: float | None = None) -> Iterable[ClientStats]:
        """All TCP connections, subscribed or not. Iterate to the end without an `await`.

        `timings_at`: now, in seconds of the broker's clock, if the timings of consumers are requested.
        """
