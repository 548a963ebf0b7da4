"""What each request and each command of nsqd needs: the only place that says so.

A route that is not in `ROUTES` cannot be added to the router, and a command that is not in `COMMANDS` has no handler.
docs/security.md is generated from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nsqkit.access import Need

__all__ = ["COMMANDS", "ROUTES"]

ROUTES: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "/ping"): Need.OPEN,  # for load balancers; without `read` it says no more than OK or NOK
    ("GET", "/info"): Need.READ,
    ("GET", "/stats"): Need.READ,
    ("GET", "/metrics"): Need.READ,
    ("GET", "/replicas"): Need.READ,
    ("POST", "/pub"): Need.PUBLISH,
    ("POST", "/mpub"): Need.PUBLISH,
    ("GET", "/channel/peek"): Need.CONSUME,  # messages are for those who could consume them
    ("GET", "/topic/peek"): Need.CONSUME_ALL,
    ("GET", "/topic/message"): Need.CONSUME_ALL,
    ("POST", "/message/finish"): Need.OPERATE,
    ("POST", "/message/requeue"): Need.OPERATE,
    ("POST", "/message/dead_letter"): Need.OPERATE,
    ("POST", "/topic/create"): Need.OPERATE,
    ("POST", "/topic/delete"): Need.OPERATE,
    ("POST", "/topic/empty"): Need.OPERATE,
    ("POST", "/topic/pause"): Need.OPERATE,
    ("POST", "/topic/unpause"): Need.OPERATE,
    ("POST", "/channel/create"): Need.OPERATE,
    ("POST", "/channel/delete"): Need.OPERATE,
    ("POST", "/channel/empty"): Need.OPERATE,
    ("POST", "/channel/pause"): Need.OPERATE,
    ("POST", "/channel/unpause"): Need.OPERATE,
    ("GET", "/channel/redrive"): Need.READ,
    ("POST", "/channel/redrive"): Need.OPERATE,
    ("POST", "/channel/redrive/stop"): Need.OPERATE,
    ("GET", "/channel/seek"): Need.READ,
    ("POST", "/channel/seek"): Need.OPERATE,
    ("GET", "/topic/limits"): Need.READ,
    ("POST", "/topic/limits"): Need.OPERATE,
    ("GET", "/channel/limits"): Need.READ,
    ("POST", "/channel/limits"): Need.OPERATE,
    ("POST", "/drain"): Need.OPERATE,
    ("POST", "/drain/cancel"): Need.OPERATE,
    ("POST", "/replicas/adopt"): Need.OPERATE,
    ("POST", "/replicas/forget"): Need.OPERATE,
    ("POST", "/replicas/scrub"): Need.OPERATE,
    ("GET", "/audit"): Need.ADMIN,
    ("GET", "/config/:opt"): Need.ADMIN,
    ("PUT", "/config/:opt"): Need.ADMIN,
    ("GET", "/debug/pprof/"): Need.ADMIN,
    ("GET", "/debug/pprof/block"): Need.ADMIN,
    ("GET", "/debug/pprof/cmdline"): Need.ADMIN,
    ("GET", "/debug/pprof/goroutine"): Need.ADMIN,
    ("GET", "/debug/pprof/heap"): Need.ADMIN,
    ("GET", "/debug/pprof/profile"): Need.ADMIN,
    ("GET", "/debug/pprof/symbol"): Need.ADMIN,
    ("POST", "/debug/pprof/symbol"): Need.ADMIN,
    ("GET", "/debug/pprof/threadcreate"): Need.ADMIN,
    ("PUT", "/debug/setblockrate"): Need.ADMIN,
    ("POST", "/debug/freememory"): Need.ADMIN,
}
"""By method and path."""

COMMANDS: Final[Mapping[str, Need]] = {
    "IDENTIFY": Need.OPEN,
    "AUTH": Need.OPEN,
    "NOP": Need.OPEN,
    "PUB": Need.PUBLISH,
    "MPUB": Need.PUBLISH,
    "DPUB": Need.PUBLISH,
    "SUB": Need.CONSUME,
    # Of those that have subscribed, about messages that were sent to them.
    "RDY": Need.OPEN,
    "FIN": Need.OPEN,
    "REQ": Need.OPEN,
    "TOUCH": Need.OPEN,
    "CLS": Need.OPEN,
}
"""Of the TCP protocol, by name."""
