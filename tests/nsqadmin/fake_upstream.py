"""Daemons that are only a table of responses: for tests of the requests, without sockets, on a mock clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
import trio

from nsqadmin.options import AdminOptions
from nsqadmin.upstream import Upstream, UpstreamError

__all__ = ["FakeUpstream", "channel", "node", "topic"]


@attrs.define(eq=False)
class FakeUpstream(Upstream):
    """Answers from `responses`. A daemon in `hanging` does not answer, one that is not in the table refuses."""

    responses: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """By address, then by path; a value (or what a function of the parameters returns) is sent as JSON, bytes as they
    are."""
    hanging: dict[str, trio.Event] = attrs.field(factory=dict)
    """They answer when the event is set; keys are addresses, or addresses with a path."""
    requests: Counter[str] = attrs.field(factory=Counter)
    """Their number, by address and path."""
    params: list[Mapping[str, str]] = attrs.field(factory=list)

    @classmethod
    def make(cls, **options: Any) -> FakeUpstream:
        """An upstream with these options."""
        return cls(AdminOptions(**options))

    async def get(self, address: str, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """As `Upstream.get`."""
        self.requests[f"{address}{path}"] += 1
        self.params.append(params or {})
        await trio.lowlevel.checkpoint()
        for key in (address, address + path):
            if key in self.hanging:
                await self.hanging[key].wait()
        response = self.responses.get(address, {}).get(path)
        if response is None:
            raise UpstreamError(f"{address}{path}: connection refused")
        value = response(params) if callable(response) else response
        return value if isinstance(value, bytes) else msgspec.json.encode(value)

    async def post(self, address: str, path: str, params: Mapping[str, str], body: bytes = b"") -> None:
        """As `Upstream.post`: every daemon of the table does what is asked."""
        self.requests[f"{address}{path}"] += 1
        await trio.lowlevel.checkpoint()
        if address not in self.responses:
            raise UpstreamError(f"{address}{path}: connection refused")

    def registry(self, address: str, nodes: list[dict[str, Any]], topics: list[str] | None = None) -> None:
        """Add a registry that lists these."""
        names = topics if topics is not None else sorted({name for each in nodes for name in each["topics"]})
        self.responses[address] = {"/nodes": {"producers": nodes}, "/topics": {"topics": names}}

    def nsqd(self, address: str, *topics: dict[str, Any], start_time: int = 1, **stats: Any) -> None:
        """Add an nsqd with these topics; `stats` are further keys of its /stats."""
        host, _, port = address.partition(":")
        self.responses[address] = {
            "/stats": {
                "version": "1.4.0",
                "health": "OK",
                "start_time": start_time,
                "topics": list(topics),
                **stats,
            },
            "/info": {"broadcast_address": host, "http_port": int(port), "tcp_port": 1, "hostname": host},
        }


def node(address: str, *topics: str) -> dict[str, Any]:
    """An nsqd in /nodes."""
    host, _, port = address.partition(":")
    return {
        "broadcast_address": host,
        "hostname": host,
        "http_port": int(port),
        "tcp_port": int(port) - 1,
        "remote_address": "r:1",
        "version": "1.4.0",
        "topics": list(topics),
        "tombstones": [False] * len(topics),
    }


def topic(name: str, *channels: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A topic in /stats."""
    return {"topic_name": name, "channels": list(channels), **values}


def channel(name: str, **values: Any) -> dict[str, Any]:
    """A channel in /stats."""
    return {"channel_name": name, "clients": None, **values}
