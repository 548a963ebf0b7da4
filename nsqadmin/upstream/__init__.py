"""Requests to nsqds and nsqlookupds: the only place that sends HTTP to them."""

from nsqadmin.upstream.client import Upstream, UpstreamError, UpstreamRefused
from nsqadmin.upstream.fan_out import NSQD, NSQLOOKUPD, UpstreamFailed, Warnings, query_all

__all__ = [
    "NSQD",
    "NSQLOOKUPD",
    "Upstream",
    "UpstreamError",
    "UpstreamFailed",
    "UpstreamRefused",
    "Warnings",
    "query_all",
]
