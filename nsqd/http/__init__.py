"""The HTTP API of nsqd: publishing, administration, statistics, configuration, profiling.

`make_servers(daemon)` returns the servers for plain HTTP and for HTTPS; `daemon` implements the protocol `HttpBackend`.
"""

from nsqd.http.api import make_plain_app, make_router, make_servers
from nsqd.http.context import HttpBackend

__all__ = ["HttpBackend", "make_plain_app", "make_router", "make_servers"]
