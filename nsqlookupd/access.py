"""What each request and each command of nsqlookupd needs: the only place that says so.

A route that is not in `ROUTES` cannot be added to the router, and a command that is not in `COMMANDS` has no handler.
docs/security.md is generated from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nsqkit.access import Need

__all__ = ["COMMANDS", "ROUTES"]

ROUTES: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "/ping"): Need.OPEN,  # for load balancers
    ("GET", "/info"): Need.READ,
    ("GET", "/lookup"): Need.FIND,
    ("GET", "/channels"): Need.FIND,
    ("GET", "/topics"): Need.READ,
    ("GET", "/nodes"): Need.READ,
    ("GET", "/replicas"): Need.READ,
    ("GET", "/debug"): Need.READ,
    ("GET", "/metrics"): Need.READ,
    ("POST", "/topic/create"): Need.OPERATE,
    ("POST", "/topic/delete"): Need.OPERATE,
    ("POST", "/topic/tombstone"): Need.OPERATE,
    ("POST", "/channel/create"): Need.OPERATE,
    ("POST", "/channel/delete"): Need.OPERATE,
    ("POST", "/replicas/forget"): Need.OPERATE,
    ("GET", "/audit"): Need.ADMIN,
    ("GET", "/debug/pprof"): Need.ADMIN,
    ("GET", "/debug/pprof/block"): Need.ADMIN,
    ("GET", "/debug/pprof/cmdline"): Need.ADMIN,
    ("GET", "/debug/pprof/goroutine"): Need.ADMIN,
    ("GET", "/debug/pprof/heap"): Need.ADMIN,
    ("GET", "/debug/pprof/profile"): Need.ADMIN,
    ("GET", "/debug/pprof/symbol"): Need.ADMIN,
    ("POST", "/debug/pprof/symbol"): Need.ADMIN,
    ("GET", "/debug/pprof/threadcreate"): Need.ADMIN,
}
"""By method and path."""

COMMANDS: Final[Mapping[str, Need]] = {
    "PING": Need.OPEN,
    "IDENTIFY": Need.OPERATE,
    "REGISTER": Need.OPERATE,
    "UNREGISTER": Need.OPERATE,
    "FOLLOWERS": Need.OPERATE,
    "GRANT": Need.OPERATE,
    "LEAVING": Need.OPERATE,
    "RELEASE": Need.OPERATE,
    "STANDING": Need.OPERATE,
}
"""Of the protocol V1, by name."""
