"""Which nsqd has a topic: ask all registries (nsqlookupd) over HTTP, and merge what they say.

    discovery = Discovery(["127.0.0.1:4161", "https://lookup.example.org:4161"])
    nodes = await discovery.lookup("orders")         # once
    async for nodes in discovery.watch("orders"):    # now, and then every interval
        ...

Rules:

- All registries are asked at once, each with the same time-out. Whoever asks once gets what all of them say. A
  `watch` does not wait for the slow: once one has answered, the others have `OTHERS_S` more. Who is later is asked
  again while the watch waits for its next round, and what it says then is given at once. So one that hangs holds
  up nobody, and one that is slow is heard.
- nsqds are told apart by (broadcast address, TCP port), as everywhere in NSQ.
- **What is known stays known.** A registry that fails counts with its last answer: losing registries, or all
  of them, takes no nsqd from a consumer. A 404 is an answer ("no such topic here"), not a failure.
- **What was lost is looked for.** A registry forgets an nsqd with its connection, and has it again a moment after
  its restart. So a `watch` asks again 1, 2, 4 ... seconds after a connection was lost (`poll_soon`), up to the
  interval. It is the registries that are asked, not the nsqd: a topic that was deleted there, or a node that was
  tombstoned, looks to its clients like one that restarts, and connecting to it would create the topic again.
- Everything is bounded: an answer's bytes, the nsqds in it, the questions whose answers are kept.

Runs on trio and on asyncio.
"""

from __future__ import annotations

import json
import logging
import math
import random as _random
import urllib.parse
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import attrs

from nsqkit.http_client import ACCEPT, HttpClient, HttpOptions

__all__ = ["Discovery", "DiscoveryFailed", "Fetch", "Node", "Watch", "registry_url"]

MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes
MAX_REDIRECTS: Final = 10
MAX_NODES: Final = 10_000  # in one answer
MAX_QUESTIONS: Final = 1_000  # whose last answers are kept
FIRST_RETRY_S: Final = 1.0
"""After a round that was asked for, or in which nobody answered, or somebody again; doubled up to the interval."""
OTHERS_S: Final = 1.0
"""How long a `watch` waits for the other registries when one has answered."""
LEAST_BETWEEN_S: Final = 1.0
"""Between two rounds, however often an extra one is asked for."""

Fetch = Callable[[str, Mapping[str, str], float], Awaitable[tuple[int, bytes]]]
"""GET of a URL with these headers within so many seconds: status and body. Any `Exception` is a failure."""

_log = logging.getLogger("nsq.discovery")


def _distinct(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses))


class DiscoveryFailed(Exception):
    """No registry answered, and nothing is known from before. The text names each with its error."""


@attrs.frozen(order=True)
class Node:
    """One nsqd, as a registry describes it."""

    broadcast_address: str
    tcp_port: int
    http_port: int = attrs.field(default=0, eq=False)
    hostname: str = attrs.field(default="", eq=False)
    version: str = attrs.field(default="", eq=False)
    topology_region: str = attrs.field(default="", eq=False)
    topology_zone: str = attrs.field(default="", eq=False)

    @property
    def tcp_address(self) -> str:
        """`host:port`, where clients connect to; an IPv6 address is bracketed."""
        host = self.broadcast_address
        return f"[{host}]:{self.tcp_port}" if ":" in host else f"{host}:{self.tcp_port}"


@attrs.define(eq=False)
class Discovery:
    """A set of registries, asked together. Raises `ValueError` for an address that is none."""

    addresses: Sequence[str] = attrs.field(converter=_distinct)
    """`host:port`, or a URL; see `registry_url`."""
    interval: float = attrs.field(default=60.0, kw_only=True)
    """Seconds between the polls of `watch`."""
    jitter: float = attrs.field(default=0.3, kw_only=True)
    """The first interval is longer by up to this part of it, by chance."""
    timeout: float = attrs.field(default=60.0, kw_only=True)
    """Seconds for one request."""
    bearer: str = attrs.field(default="", kw_only=True, repr=False)
    """Sent as `Authorization: Bearer ...` if not empty."""
    fetch: Fetch = attrs.field(default=None, kw_only=True, repr=False)
    random: _random.Random = attrs.field(factory=_random.Random, kw_only=True, repr=False)
    failures: dict[str, str] = attrs.field(factory=dict, init=False)
    """The registries that did not answer when they were asked last, with the reason."""
    _known: OrderedDict[tuple[str, str], dict[str, Any]] = attrs.field(factory=OrderedDict, init=False)
    _watches: weakref.WeakSet[Watch] = attrs.field(factory=weakref.WeakSet, init=False)

    def __attrs_post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("no address of a registry")
        for address in self.addresses:
            registry_url(address, "lookup")
        if self.fetch is None:
            self.fetch = _fetch

    async def lookup(self, topic: str) -> list[Node]:
        """The nsqds that have the topic, sorted. `DiscoveryFailed` if nobody answers and nothing is known."""
        return await self._nodes(topic)

    async def nodes(self) -> list[Node]:
        """All nsqds, sorted. `DiscoveryFailed` as for `lookup`."""
        return await self._nodes(None)

    async def topics(self) -> list[str]:
        """The names of all topics, sorted. `DiscoveryFailed` as for `lookup`."""
        answers = await self._ask_all("topics")
        return sorted({name for answer in answers for name in _strings(answer.get("topics"))})

    async def channels(self, topic: str) -> list[str]:
        """The names of the topic's channels, sorted. `DiscoveryFailed` as for `lookup`."""
        answers = await self._ask_all("channels", topic)
        return sorted({name for answer in answers for name in _strings(answer.get("channels"))})

    def poll_soon(self) -> None:
        """Have every `watch` ask again now and then 1, 2, 4 ... s later, up to the interval: a connection was lost.

        At most once a second, however often this is called.
        """
        for watch in self._watches:
            watch.ask_soon()

    def watch(self, topic: str | None = None) -> Watch:
        """Ask at once and then every interval, for ever; gives the whole merged list after each round.

        Without a topic: all nsqds. While nobody answers and nothing is known, nothing is given, and it asks
        again sooner.
        """
        return Watch(self, topic)

    # Inside.

    async def _nodes(self, topic: str | None, late: set[str] | None = None) -> list[Node]:
        """Those that have the topic; without one all of them. For `late` see `_ask_all`."""
        return _merged_nodes(await self._ask_all(*_question(topic), late))

    async def _nodes_with(self, address: str, topic: str | None) -> list[Node] | None:
        """The same, when this registry has been asked alone; None if it does not answer."""
        known = self._remember(*_question(topic))
        answered = await self._ask(address, *_question(topic), known)
        return _merged_nodes(list(known.values())) if answered else None

    async def _ask_all(
        self, what: str, topic: str = "", late: set[str] | None = None
    ) -> list[dict[str, Any]]:
        """What each registry says or said last; those that never answered are left out.

        With `late`: when one has answered, the others have `OTHERS_S` more, and `late` gets those who had need of more.
        """
        known = self._remember(what, topic)
        others_s = math.inf if late is None else OTHERS_S
        silent = set(self.addresses)
        async with anyio.create_task_group() as group:

            async def ask(address: str) -> None:
                answered = await self._ask(address, what, topic, known)
                silent.discard(address)
                if answered:
                    scope = group.cancel_scope
                    scope.deadline = min(scope.deadline, anyio.current_time() + others_s)

            for address in self.addresses:
                group.start_soon(ask, address)
        if late is not None:
            late |= silent
        if not known:
            reasons = "; ".join(f"{address}: {reason}" for address, reason in self.failures.items())
            raise DiscoveryFailed(f"no registry answered ({reasons})")
        return list(known.values())

    def _remember(self, what: str, topic: str) -> dict[str, Any]:
        known = self._known.setdefault((what, topic), {})
        self._known.move_to_end((what, topic))
        if len(self._known) > MAX_QUESTIONS:
            self._known.popitem(last=False)
        return known

    async def _ask(self, address: str, what: str, topic: str, known: dict[str, Any]) -> bool:
        """Whether it answered; its answer is in `known` then."""
        url = registry_url(address, what, topic)
        headers = {"Accept": ACCEPT}
        if self.bearer:
            headers["Authorization"] = f"Bearer {self.bearer}"
        try:
            with anyio.fail_after(self.timeout):
                status, body = await self.fetch(url, headers, self.timeout)
            known[address] = _parse(status, body)
        except Exception as error:
            self._failed(address, _reason_of(error, self.timeout))
            return False
        if self.failures.pop(address, None) is not None:
            _log.info("LOOKUPD(%s): answers again", address)
        return True

    def _failed(self, address: str, reason: str) -> None:
        if address not in self.failures:  # once for each time that it goes away, not for each poll
            _log.warning("LOOKUPD(%s): no answer: %s", address, reason)
        self.failures[address] = reason


@attrs.define(eq=False)
class Watch:
    """The rounds of `Discovery.watch`, an iterator and no generator: whoever leaves it has nothing to close."""

    _discovery: Discovery
    _topic: str | None
    _extra_wait: float = attrs.field(init=False)
    """Seconds that the first interval is longer."""
    _retry_s: float = attrs.field(default=math.inf, init=False)
    """Until the next round, where that is less than the interval; doubled with each."""
    _all_failed: bool = attrs.field(default=False, init=False)
    """Whether nobody answered in the last round."""
    _asked_before: bool = attrs.field(default=False, init=False)
    _late: set[str] = attrs.field(factory=set, init=False)
    """Registries that are still to be heard in this round."""
    _wanted: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set when a round was asked for that has not begun."""

    def __attrs_post_init__(self) -> None:
        discovery = self._discovery
        self._extra_wait = discovery.random.random() * discovery.jitter * discovery.interval
        discovery._watches.add(self)

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Node]:
        while True:
            if self._asked_before and (late_nodes := await self._wait()):
                return late_nodes
            self._asked_before = True
            nodes = await self._ask()
            if nodes is not None:
                return nodes

    def ask_soon(self) -> None:
        """For `Discovery.poll_soon`. In a round, it is the next one that is meant."""
        self._wanted.set()

    async def _ask(self) -> list[Node] | None:
        discovery = self._discovery
        self._wanted = anyio.Event()
        self._late.clear()
        try:
            nodes = await discovery._nodes(self._topic, self._late)
        except DiscoveryFailed:
            nodes = None
        all_failed = len(discovery.failures) == len(discovery.addresses)
        if all_failed != self._all_failed:  # all gone; or just back, and not told of every nsqd yet
            self._all_failed, self._retry_s = all_failed, FIRST_RETRY_S
        return nodes

    async def _wait(self) -> list[Node] | None:
        """Until the next round is due; or until somebody who was late is heard: all nodes then."""
        heard: list[Node] | None = None
        async with anyio.create_task_group() as group:

            async def hear(address: str) -> None:
                nonlocal heard
                nodes = await self._discovery._nodes_with(address, self._topic)
                self._late.discard(address)
                if nodes is not None:
                    heard = nodes
                    group.cancel_scope.cancel()

            for address in self._late:
                group.start_soon(hear, address)
            await self._sleep()
            group.cancel_scope.cancel()
            for address in sorted(self._late):
                self._discovery._failed(address, "nothing before the next round")
        return heard

    async def _sleep(self) -> None:
        """Until the next round is due, or asked for by `poll_soon`."""
        interval = self._discovery.interval
        seconds = min(interval + self._extra_wait, self._retry_s)
        at_least = min(seconds, LEAST_BETWEEN_S)
        await anyio.sleep(at_least)
        with anyio.move_on_after(seconds - at_least):
            await self._wanted.wait()
        self._retry_s = FIRST_RETRY_S if self._wanted.is_set() else 2 * self._retry_s
        if seconds >= interval:
            self._extra_wait = 0.0


def registry_url(address: str, what: str, topic: str = "") -> str:
    """The URL of a question (`lookup`, `topics`, `nodes`, `channels`) to the registry at this address.

    An address is `host:port` or a URL with a port; without a scheme it is `http`. A path stands for the
    default `/lookup` and is used as it is; the other questions go to its last `/lookup` replaced, or else to
    one below it. A query is kept. Raises `ValueError` for an address without a port and for other schemes.
    """
    parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a registry is asked over http or https, not {parts.scheme}: {address!r}")
    if not parts.hostname or parts.port is None:
        raise ValueError(f"missing port in address {address!r}")
    path = parts.path.rstrip("/") or "/lookup"
    if what != "lookup":
        path = f"{path.removesuffix('/lookup')}/{what}"
    query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    if topic:
        query.append(("topic", topic))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, urllib.parse.urlencode(query), ""))


def _question(topic: str | None) -> tuple[str, str]:
    """What is asked for nodes: where, and of which topic."""
    return ("nodes", "") if topic is None else ("lookup", topic)


def _parse(status: int, body: bytes) -> dict[str, Any]:
    if status == 404:
        return {}
    if status != 200:
        raise ValueError(f"status {status}")
    answer = json.loads(body)
    if isinstance(answer, dict) and isinstance(answer.get("data"), dict):
        answer = answer["data"]  # the envelope of old registries
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    return answer


def _merged_nodes(answers: list[dict[str, Any]]) -> list[Node]:
    merged: dict[Node, Node] = {}
    for answer in answers:
        producers = answer.get("producers")
        for fields in producers[:MAX_NODES] if isinstance(producers, list) else ():
            node = _node(fields)
            if node is not None:
                merged[node] = node
    return sorted(merged)


def _node(fields: Any) -> Node | None:
    """None for what no client could connect to."""
    if not isinstance(fields, dict):
        return None
    host, port = fields.get("broadcast_address"), fields.get("tcp_port")
    if not isinstance(host, str) or not host or not isinstance(port, int) or not 1 <= port <= 65535:
        return None
    http_port = fields.get("http_port")
    return Node(
        host,
        port,
        http_port=http_port if isinstance(http_port, int) else 0,
        **{name: str(fields.get(name) or "") for name in _TEXTS},
    )


_TEXTS = ("hostname", "version", "topology_region", "topology_zone")


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _reason_of(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {timeout:g} s"
    return str(error) or type(error).__name__


async def _fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """A client for each request: polls are a minute apart."""
    options = HttpOptions(
        connect_timeout=timeout_s,
        request_timeout=timeout_s,
        max_body=MAX_ANSWER,
        max_redirects=MAX_REDIRECTS,
    )
    answer = await HttpClient(options).ask(url, headers=headers)
    return answer.status, answer.body
