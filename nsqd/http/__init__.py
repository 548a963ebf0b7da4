"""The HTTP API of nsqd: publishing, administration, statistics, configuration, a look inside.

`make_servers(daemon)` gives the servers for plain HTTP and for HTTPS; `daemon` is whatever fits the protocol `Daemon`.
"""

from nsqd.http.api import make_plain_app, make_router, make_servers
from nsqd.http.context import Daemon
from nsqd.http.memory import MemoryStats, memory_stats
from nsqd.http.stats import (
    ChannelStats,
    Latency,
    Stats,
    StatsQuery,
    TopicStats,
    collect,
    in_slices,
)

__all__ = [
    "ChannelStats",
    "Daemon",
    "Latency",
    "MemoryStats",
    "Stats",
    "StatsQuery",
    "TopicStats",
    "collect",
    "in_slices",
    "make_plain_app",
    "make_router",
    "make_servers",
    "memory_stats",
]
