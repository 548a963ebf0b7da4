"""The HTTP API of nsqd: publishing, administration, statistics, configuration, profiling.

`make_servers(daemon)` gives the servers for plain HTTP and for HTTPS; `daemon` is whatever fits the protocol `Daemon`.
"""

from nsqd.http.api import make_plain_app, make_router, make_servers
from nsqd.http.context import Daemon

__all__ = ["Daemon", "make_plain_app", "make_router", "make_servers"]
