"""Requests to nsqds and nsqlookupds: the one place that speaks HTTP to them."""

from nsqadmin.upstream.client import Upstream, UpstreamError
from nsqadmin.upstream.fan_out import UpstreamFailed, Warnings, ask_all

__all__ = ["Upstream", "UpstreamError", "UpstreamFailed", "Warnings", "ask_all"]
