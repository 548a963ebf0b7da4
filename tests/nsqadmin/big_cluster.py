"""A simulated cluster of any size: registries and nsqds that answer HTTP like real ones.

    big = BigCluster(topics=10_000, clients=50_000, nodes=3)
    async with big.serving() as addresses:     # of the registries and of the nsqds
        ...nsqadmin with --lookupd-http-address of each of addresses.registries...

In memory, without a socket, for tests of the poller alone: `big.answer(address, path, params)`.

Its topics are `t00000` and so on, each on every node, with `channels` channels each; the clients are spread over the
channels, and the remaining channels have no consumer. `busy` of the topics have traffic: each call of `tick` adds
messages to them. Everything is computed from numbers, so two clusters of the same size are identical.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import attrs
import trio

from nsqkit.service.http import HttpServer, Request, Response, Route
from nsqkit.service.listeners import bound_address, open_listeners

__all__ = ["Addresses", "BigCluster"]

_JSON = b"application/json; charset=utf-8"


@attrs.frozen
class Addresses:
    """Of the daemons."""

    registries: list[str]
    nsqds: list[str]


@attrs.define(eq=False)
class BigCluster:
    """The simulated cluster; see the module."""

    topics: int = 10_000
    clients: int = 50_000
    channels: int = 2
    """Of each topic."""
    nodes: int = 3
    registries: int = 1
    busy: int = 500
    """Topics whose counters change with each tick."""
    ticks: int = attrs.field(default=0, init=False)
    _ports: list[int] = attrs.field(factory=list, init=False)
    """HTTP ports of the nsqds."""
    _made: dict[tuple[int, bool], bytes] = attrs.field(factory=dict, init=False)
    """Responses of this tick by node, and with or without clients."""

    def __attrs_post_init__(self) -> None:
        self._ports = [20_001 + 2 * node for node in range(self.nodes)]

    def tick(self, times: int = 1) -> None:
        """Advance the busy topics: 10 messages more on each node, 9 of them finished in each channel."""
        self.ticks += times
        self._made.clear()

    # In memory.

    @property
    def nsqd_addresses(self) -> list[str]:
        """The HTTP addresses of the nsqds."""
        return [f"127.0.0.1:{port}" for port in self._ports]

    def answer(self, address: str, path: str, params: Mapping[str, str]) -> bytes | None:
        """The body of a response; None for an unknown path. Any address that is not an nsqd's is a registry."""
        if address in self.nsqd_addresses:
            return self._nsqd_answer(self.nsqd_addresses.index(address), path, params)
        return self._registry_answer(path, params)

    def _registry_answer(self, path: str, params: Mapping[str, str]) -> bytes | None:
        names = [topic_name(number) for number in range(self.topics)]
        if path == "/topics":
            return _json({"topics": names})
        if path == "/channels":
            return _json({"channels": [channel_name(number) for number in range(self.channels)]})
        producers = [self._producer(node) for node in range(self.nodes)]
        if path == "/lookup":
            return _json({"channels": [], "producers": producers})
        if path == "/nodes":
            listed = {"tombstones": [False] * self.topics, "topics": names}
            return _json({"producers": [{**producer, **listed} for producer in producers]})
        return None

    def _nsqd_answer(self, node: int, path: str, params: Mapping[str, str]) -> bytes | None:
        if path == "/info":
            return _json({**self._producer(node), "start_time": 1})
        if path != "/stats":
            return None
        with_clients = params.get("include_clients") not in ("false", "0")
        topic = params.get("topic", "")
        if topic:
            number = int(topic.removeprefix("t"))
            return _stats([self._topic(node, number, with_clients, params.get("channel", ""))])
        key = node, with_clients
        if key not in self._made:
            self._made[key] = _stats(
                [self._topic(node, number, with_clients) for number in range(self.topics)]
            )
        return self._made[key]

    def _producer(self, node: int) -> dict[str, Any]:
        return {
            "remote_address": f"127.0.0.1:{40_000 + node}",
            "hostname": f"host{node}",
            "broadcast_address": "127.0.0.1",
            "tcp_port": self._ports[node] + 1,
            "http_port": self._ports[node],
            "version": "1.4.0",
            "topology_zone": "",
            "topology_region": "",
        }

    def _topic(self, node: int, number: int, with_clients: bool, only_channel: str = "") -> dict[str, Any]:
        moved = 10 * self.ticks if number < self.busy else 0
        names = [channel_name(each) for each in range(self.channels)]
        return {
            "topic_name": topic_name(number),
            "channels": [
                self._channel(node, number, channel, with_clients)
                for channel, name in enumerate(names)
                if only_channel in ("", name)
            ],
            "depth": 0,
            "backend_depth": 0,
            "message_count": 1_000 + moved,
            "message_bytes": 200_000 + 200 * moved,
            "paused": number % 100 == 99,
            "e2e_processing_latency": {"count": 0, "percentiles": None},
        }

    def _channel(self, node: int, topic: int, channel: int, with_clients: bool) -> dict[str, Any]:
        moved = 10 * self.ticks if topic < self.busy else 0
        clients = self._clients_of(node, topic, channel)
        return {
            "channel_name": channel_name(channel),
            "depth": moved // 10,
            "backend_depth": 0,
            "in_flight_count": len(clients),
            "deferred_count": 0,
            "message_count": 1_000 + moved,
            "global_msg_count": 1_000 + moved * 9 // 10,
            "requeue_count": self.ticks if topic < self.busy else 0,
            "timeout_count": 0,
            "client_count": len(clients),
            "clients": [_client(number) for number in clients] if with_clients else None,
            "paused": False,
            "e2e_processing_latency": {"count": 0, "percentiles": None},
        }

    def _clients_of(self, node: int, topic: int, channel: int) -> range:
        places = self.nodes * self.topics * self.channels
        place = (topic * self.channels + channel) * self.nodes + node
        return range(place, self.clients, places)

    # Over HTTP.

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Addresses]:
        """Listen on free ports of the loopback interface while the block runs."""
        async with trio.open_nursery() as nursery:
            listeners = [await open_listeners("127.0.0.1:0") for _ in range(self.nodes + self.registries)]
            addresses = [bound_address(each[0]) for each in listeners]
            self._ports = [address.port for address in addresses[: self.nodes]]
            self._made.clear()
            for each, address in zip(listeners, addresses, strict=True):
                await nursery.start(HttpServer(_SimulatedDaemon(self, address.text)).run, each)
            texts = [address.text for address in addresses]
            yield Addresses(texts[self.nodes :], texts[: self.nodes])
            nursery.cancel_scope.cancel()


class _SimulatedDaemon:
    """One of its daemons, for `HttpServer`."""

    def __init__(self, big: BigCluster, address: str) -> None:
        self._big = big
        self._address = address
        self._route = Route(handler=self._answer)

    def route(
        self, method: str, raw_path: bytes, path: str, query_string: bytes
    ) -> tuple[Route, dict[str, str]]:
        """All requests have the same handler."""
        return self._route, {}

    def _answer(self, request: Request) -> Response:
        params = dict(parse_qsl(request.query_string.decode()))
        body = self._big.answer(self._address, request.path, params)
        return (
            Response(404, b'{"message":"NOT_FOUND"}', _JSON) if body is None else Response(200, body, _JSON)
        )


def topic_name(number: int) -> str:
    """The name of a topic."""
    return f"t{number:05}"


def channel_name(number: int) -> str:
    """The name of a channel."""
    return f"c{number}"


def _stats(topics: list[dict[str, Any]]) -> bytes:
    return _json({"version": "1.4.0", "health": "OK", "start_time": 1, "topics": topics, "producers": None})


def _client(number: int) -> dict[str, Any]:
    return {
        "client_id": f"consumer{number}",
        "hostname": f"consumer{number}.example.org",
        "version": "V2",
        "remote_address": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:40000",
        "state": 3,
        "ready_count": 100,
        "in_flight_count": 1,
        "message_count": 1_000,
        "finish_count": 999,
        "requeue_count": 0,
        "connect_ts": 1_790_000_000,
        "sample_rate": 0,
        "deflate": False,
        "snappy": False,
        "user_agent": "example/1.0",
        "topology_zone": "",
        "topology_region": "",
        "tls": False,
        "tls_cipher_suite": "",
        "tls_version": "",
        "tls_negotiated_protocol": "",
        "tls_negotiated_protocol_is_mutual": False,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
