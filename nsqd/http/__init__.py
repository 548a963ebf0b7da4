"""The HTTP API of nsqd: publishing, administration, statistics, configuration, a look inside.

`make_server(daemon)` gives the server for plain HTTP, `make_router(daemon)` the routes for another one (HTTPS);
`daemon` is whatever fits the protocol `Daemon`.
"""

from nsqd.http.api import make_plain_app, make_router, make_server
from nsqd.http.context import Daemon
from nsqd.http.memory import MemoryStats, memory_stats
from nsqd.http.stats import (
    ChannelStats,
    ClientStats,
    Latency,
    Stats,
    StatsQuery,
    TopicStats,
    collect,
    in_slices,
)

__all__ = [
    "ChannelStats",
    "ClientStats",
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
    "make_server",
    "memory_stats",
]
