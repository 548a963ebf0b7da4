"""Finding the nsqds that have a topic: ask all registries (nsqlookupd) over HTTP, and merge their answers.

    discovery = Discovery(["127.0.0.1:4161", "https://lookup.example.org:4161"])
    nodes = await discovery.lookup("orders")         # once
    async for nodes in discovery.watch("orders"):    # now, and then every interval
        ...

Rules:

- All registries are asked at the same time, with the same time-out. `lookup` and its like wait for all answers. A
  `watch` does not wait for slow registries: after the first answer the others have `OTHERS_S` more. A later one is
  asked again while the watch waits for its next round, and its answer is then given at once. So a registry that hangs
  delays nothing, and a slow one still counts.
- An nsqd is identified by (broadcast address, TCP port), as everywhere in NSQ.
- **Known nsqds stay known.** A registry that fails counts with its last answer, so a consumer keeps its nsqds when
  registries are lost, even all of them. A 404 is an answer ("no such topic here"), not a failure.
- **Lost nsqds are looked for.** A registry drops an nsqd when its connection ends, and has it again soon after the
  restart of the nsqd. So a `watch` asks again 1, 2, 4 ... seconds after a connection was lost (`poll_soon`), up to the
  interval. It asks the registries, and does not connect to the nsqd: a client cannot tell a restart from a deleted
  topic or a tombstoned node, and connecting would create the topic again.
- **A topic that nobody has yet is looked for.** A `watch` says so once, and asks again after 0.5, 1, 2, 4 ... s, up to
  the interval.
- **Changes are followed** where a registry can tell them. Our nsqlookupd gives its answer a version, and holds back a
  request that has the present one until there is another. A `watch` of a topic has one such request at each of these
  registries between two rounds, at least a second apart, with doubled pauses after failures and answers that are none:
  a registry that lies costs no more than one that is polled. The rounds go on, for the other registries and for what
  time alone changes.
- Bounded are the bytes of an answer, the nsqds in it, and the queries whose answers are kept.

Runs on trio and on asyncio.
"""

from __future__ import annotations

import functools
import logging
import math
import random as _random
import re
import urllib.parse
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import attrs

from nsqkit.decoding import decode_json
from nsqkit.http_client import ACCEPT, Answer, HttpClient, HttpOptions, TlsFactory
from nsqkit.tls import client_context

__all__ = ["Discovery", "DiscoveryFailed", "Fetch", "Node", "Watch", "registry_url"]

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes."""
MAX_REDIRECTS: Final = 10
MAX_NODES: Final = 10_000
"""In one answer; more are ignored."""
MAX_TEXT: Final = 255
"""Characters of a host name, a version and the like; the rest is cut off."""
MAX_QUERIES: Final = 1_000
"""Queries whose last answers are kept."""
FIRST_RETRY_S: Final = 1.0
"""Seconds to the next round after `poll_soon`, when no registry answers, and when one answers again; then doubled."""
FIRST_LOOK_S: Final = 0.5
"""Seconds to the next round after the first one without an nsqd; then doubled."""
OTHERS_S: Final = 1.0
"""Seconds that a `watch` waits for the other registries after the first answer."""
LEAST_BETWEEN_S: Final = 1.0
"""Minimum seconds between two rounds of a `watch`, and between two requests to follow one registry."""
FOLLOW_S: Final = 25.0
"""Seconds that a registry may hold back a request; common proxies give up after 30 s or more."""
FOLLOW_MARGIN_S: Final = 5.0
"""Seconds that its answer may come later."""

VERSION_HEADER: Final = b"x-nsq-topic-version"

Fetch = Callable[[str, Mapping[str, str], float], Awaitable[Answer]]
"""`(url, headers, timeout_s)` -> the answer to a GET. Raises any `Exception` on failure."""

_log = logging.getLogger("nsq.discovery")


def _distinct(addresses: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(addresses))


class DiscoveryFailed(Exception):
    """No registry answered, and none has answered before. The text has the error of each."""


@attrs.frozen(order=True)
class Node:
    """An nsqd as a registry describes it. Nodes are equal if `broadcast_address` and `tcp_port` are."""

    broadcast_address: str
    tcp_port: int
    http_port: int = attrs.field(default=0, eq=False)
    hostname: str = attrs.field(default="", eq=False)
    version: str = attrs.field(default="", eq=False)
    topology_region: str = attrs.field(default="", eq=False)
    topology_zone: str = attrs.field(default="", eq=False)

    @property
    def tcp_address(self) -> str:
        """`host:port` for clients, with brackets for an IPv6 address."""
        host = self.broadcast_address
        return f"[{host}]:{self.tcp_port}" if ":" in host else f"{host}:{self.tcp_port}"


@attrs.frozen
class _Reply:
    """The answer of one registry to one query."""

    fields: dict[str, Any]
    version: str = ""
    """Of the topic's nsqds; empty if the registry has no versions."""


@attrs.define(eq=False)
class Discovery:
    """A set of registries that are asked together. Raises `ValueError` for a bad address.

    Registries that do not answer are logged once, and again when they do.
    """

    addresses: Sequence[str] = attrs.field(converter=_distinct)
    """Of the registries: `host:port` or URLs, see `registry_url`."""
    interval: float = attrs.field(default=60.0, kw_only=True)
    """Seconds between two rounds of a `watch`."""
    jitter: float = attrs.field(default=0.3, kw_only=True)
    """The first interval is longer by a random part of it, up to this one."""
    timeout: float = attrs.field(default=60.0, kw_only=True)
    """Seconds for one request."""
    bearer: str = attrs.field(default="", kw_only=True, repr=False)
    """A token that is sent as `Authorization: Bearer TOKEN`; empty: none."""
    tls: TlsFactory = attrs.field(default=client_context, kw_only=True, repr=False)
    """Makes the context for registries at `https://` URLs."""
    fetch: Fetch = attrs.field(default=None, kw_only=True, repr=False)
    """Makes the requests; by default `nsqkit.http_client` does."""
    random: _random.Random = attrs.field(factory=_random.Random, kw_only=True, repr=False)
    failures: dict[str, str] = attrs.field(factory=dict, init=False)
    """Address -> reason, of the registries whose last request failed."""
    _known: OrderedDict[tuple[str, str], dict[str, _Reply]] = attrs.field(factory=OrderedDict, init=False)
    _watches: weakref.WeakSet[Watch] = attrs.field(factory=weakref.WeakSet, init=False)

    def __attrs_post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("no address of a registry")
        for address in self.addresses:
            registry_url(address, "lookup")
        if self.fetch is None:
            self.fetch = functools.partial(_fetch, self.tls)

    async def lookup(self, topic: str) -> list[Node]:
        """The nsqds that have the topic, sorted; empty if no registry knows it. Raises `DiscoveryFailed`."""
        return await self._nodes(topic)

    async def nodes(self) -> list[Node]:
        """All nsqds, sorted. Raises `DiscoveryFailed`."""
        return await self._nodes(None)

    async def topics(self) -> list[str]:
        """The names of all topics, sorted. Raises `DiscoveryFailed`."""
        answers = await self._ask_all("topics")
        return sorted({name for answer in answers for name in _strings(answer.get("topics"))})

    async def channels(self, topic: str) -> list[str]:
        """The names of the channels of a topic, sorted. Raises `DiscoveryFailed`."""
        answers = await self._ask_all("channels", topic)
        return sorted({name for answer in answers for name in _strings(answer.get("channels"))})

    def poll_soon(self) -> None:
        """Have every `watch` ask again at once, then after 1, 2, 4 ... s, up to the interval.

        To be called when a connection to an nsqd was lost. Rounds are at least 1 s apart, however often it is called.
        """
        for watch in self._watches:
            watch.ask_soon()

    def watch(self, topic: str | None = None) -> Watch:
        """Iterate over the nsqds of a topic: the merged list now, and again after each interval, for ever.

        Without a topic: all nsqds. While no registry answers and none has answered before, the iterator waits, and
        asks more often.
        """
        return Watch(self, topic)

    # Queries.

    async def _nodes(self, topic: str | None, late: set[str] | None = None) -> list[Node]:
        """The nsqds with the topic, or all of them. For `late` see `_ask_all`."""
        return _merged_nodes(await self._ask_all(*_query(topic), late))

    async def _nodes_with(self, address: str, topic: str | None) -> list[Node] | None:
        """The same after asking this registry only; None if it does not answer."""
        known = self._remember(*_query(topic))
        answered = await self._ask(address, *_query(topic), known)
        return _merged_nodes(_fields(known)) if answered else None

    async def _newer_nodes(self, address: str, topic: str, wait_s: float) -> list[Node] | None:
        """Ask this registry, which has given a version, for a change within `wait_s` seconds.

        The nodes of all registries if its own have changed; None if they have not. Raises any `Exception` on failure.
        """
        known = self._remember(*_query(topic))
        before = known[address]
        params = {"newer_than": before.version, "wait": f"{wait_s:.3f}s"}
        reply = await self._request(address, *_query(topic), params, wait_s + FOLLOW_MARGIN_S)
        known[address] = reply
        changed = _merged_nodes([reply.fields]) != _merged_nodes([before.fields])
        return _merged_nodes(_fields(known)) if changed else None

    def _version(self, address: str, topic: str) -> str:
        """The version in the last answer of this registry; empty without one."""
        reply = self._remember(*_query(topic)).get(address)
        return reply.version if reply is not None else ""

    async def _ask_all(
        self, what: str, topic: str = "", late: set[str] | None = None
    ) -> list[dict[str, Any]]:
        """The last answer of each registry that has ever answered. Raises `DiscoveryFailed` if there is none.

        With `late`: registries have `OTHERS_S` after the first answer; those that need more are added to `late`.
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
        return _fields(known)

    def _remember(self, what: str, topic: str) -> dict[str, _Reply]:
        known = self._known.setdefault((what, topic), {})
        self._known.move_to_end((what, topic))
        if len(self._known) > MAX_QUERIES:
            self._known.popitem(last=False)
        return known

    async def _ask(self, address: str, what: str, topic: str, known: dict[str, _Reply]) -> bool:
        """Ask one registry and put its answer into `known`. Whether it answered."""
        try:
            known[address] = await self._request(address, what, topic, {}, self.timeout)
        except Exception as error:
            self._failed(address, _reason_of(error, self.timeout))
            return False
        if self.failures.pop(address, None) is not None:
            _log.info("LOOKUPD(%s): answers again", address)
        return True

    async def _request(
        self, address: str, what: str, topic: str, params: Mapping[str, str], timeout_s: float
    ) -> _Reply:
        """The answer of one registry. Raises any `Exception` on failure."""
        url = registry_url(address, what, topic)
        if params:
            url += "&" + urllib.parse.urlencode(params)
        headers = {"Accept": ACCEPT}
        if self.bearer:
            headers["Authorization"] = f"Bearer {self.bearer}"
        with anyio.fail_after(timeout_s):
            answer = await self.fetch(url, headers, timeout_s)
        return _Reply(_parse(answer.status, answer.body, what), _version_of(answer))

    def _failed(self, address: str, reason: str) -> None:
        if address not in self.failures:  # once for each outage, not for each poll
            _log.warning("LOOKUPD(%s): no answer: %s", address, reason)
        self.failures[address] = reason


@attrs.define(eq=False)
class _Followed:
    """A registry that is asked for changes."""

    next_at: float = -math.inf
    """When it may be asked again."""
    pause_s: float = LEAST_BETWEEN_S
    """The last pause; doubled while it fails, or answers at once that nothing has changed."""


@attrs.define(eq=False)
class Watch:
    """The iterator of `Discovery.watch`. Not a generator, so it need not be closed."""

    _discovery: Discovery
    _topic: str | None
    _extra_wait: float = attrs.field(init=False)
    """Seconds by which the first interval is longer."""
    _retry_s: float = attrs.field(default=math.inf, init=False)
    """Seconds to the next round if less than the interval; doubled with each round."""
    _all_failed: bool = attrs.field(default=False, init=False)
    """Whether no registry answered in the last round."""
    _missing: bool = attrs.field(default=False, init=False)
    """Whether the last answers had no nsqd."""
    _pause_s: float | None = attrs.field(default=None, init=False)
    """Seconds from the last round to the next; None before the first."""
    _asked_at: float = attrs.field(default=0.0, init=False)
    """The end of the last round."""
    _followed: dict[str, _Followed] = attrs.field(factory=dict, init=False)
    """By the address of the registry."""
    _late: set[str] = attrs.field(factory=set, init=False)
    """Registries that have not answered in this round."""
    _wanted: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    """Set by `ask_soon`, until the next round begins."""

    def __attrs_post_init__(self) -> None:
        discovery = self._discovery
        self._extra_wait = discovery.random.random() * discovery.jitter * discovery.interval
        discovery._watches.add(self)

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> list[Node]:
        while True:
            if self._pause_s is not None and (nodes := await self._wait()):
                self._note_missing(nodes)
                return nodes
            found = await self._ask()
            self._asked_at = anyio.current_time()
            self._pause_s = min(self._discovery.interval + self._extra_wait, self._retry_s)
            if found is not None:
                return found

    def ask_soon(self) -> None:
        """Begin another round soon; during a round, after it."""
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
        if all_failed != self._all_failed:  # an outage began, or ended and the registries still miss nsqds
            self._all_failed, self._retry_s = all_failed, FIRST_RETRY_S
        self._note_missing(nodes)
        return nodes

    def _note_missing(self, nodes: list[Node] | None) -> None:
        """Begin to ask more often when there is no nsqd, and say so. None: no registry has answered yet."""
        missing = nodes is not None and not nodes
        if missing and not self._missing:
            if self._retry_s == math.inf and not self._wanted.is_set():
                self._retry_s = FIRST_LOOK_S
            what = "no nsqd is registered" if self._topic is None else f"no nsqd has topic {self._topic!r}"
            _log.warning(
                "LOOKUPD: %s yet; asking again after %g, %g, %g ... s, at most %g s",
                *(what, FIRST_LOOK_S, 2 * FIRST_LOOK_S, 4 * FIRST_LOOK_S, self._discovery.interval),
            )
        elif nodes and self._missing:
            topic = "" if self._topic is None else f" with topic {self._topic!r}"
            nodes_found = "nsqd" if len(nodes) == 1 else "nsqds"
            _log.info("LOOKUPD: found %d %s", len(nodes), nodes_found + topic)
        if nodes is not None:
            self._missing = missing

    async def _wait(self) -> list[Node] | None:
        """Wait for the next round. The merged nodes if a late registry answers meanwhile, or another one tells a
        change."""
        found: list[Node] | None = None
        async with anyio.create_task_group() as group:

            def end_with(nodes: list[Node] | None) -> None:
                nonlocal found
                if nodes is not None:
                    found = nodes
                    group.cancel_scope.cancel()

            async def ask_again(address: str) -> None:
                nodes = await self._discovery._nodes_with(address, self._topic)
                self._late.discard(address)
                end_with(nodes)

            async def follow(address: str, topic: str) -> None:
                end_with(await self._follow(address, topic))

            for address in self._discovery.addresses:
                if address in self._late:
                    group.start_soon(ask_again, address)
                elif self._topic is not None:
                    group.start_soon(follow, address, self._topic)
            await self._sleep()
            group.cancel_scope.cancel()
            for address in sorted(self._late):
                self._discovery._failed(address, "no answer before the next round")
        return found

    async def _follow(self, address: str, topic: str) -> list[Node] | None:
        """Ask one registry for changes. The merged nodes after the first one; None if it cannot tell them, or the next
        round is due."""
        discovery = self._discovery
        followed = self._followed.setdefault(address, _Followed())
        while version := discovery._version(address, topic):
            await anyio.sleep_until(followed.next_at)
            began = anyio.current_time()
            # It ends before the round, which would cut it off: the registry would not notice, and hold it back further.
            wait_s = min(FOLLOW_S, self._next_round_at - LEAST_BETWEEN_S - began)
            if wait_s < LEAST_BETWEEN_S:
                return None
            followed.next_at = began + LEAST_BETWEEN_S  # also if it is cut off
            nodes, failed = None, False
            try:
                nodes = await discovery._newer_nodes(address, topic, wait_s)
            except Exception:
                failed = True  # not logged: the next round asks it too, and says what is wrong
            now = anyio.current_time()
            same = discovery._version(address, topic) == version
            in_vain = failed or (same and now - began < wait_s * 0.9)
            pause_s = min(2 * followed.pause_s, discovery.interval) if in_vain else LEAST_BETWEEN_S
            followed.pause_s = pause_s
            followed.next_at = now + pause_s * (1 + discovery.random.random() * discovery.jitter)
            if nodes == []:
                self.ask_soon()  # the last nsqd has gone: from now on the topic is looked for
                return None
            if nodes is not None:
                return nodes
        return None

    @property
    def _next_round_at(self) -> float:
        return self._asked_at + (self._pause_s or 0.0)

    async def _sleep(self) -> None:
        """Sleep until the next round is due, or was requested by `poll_soon`."""
        seconds = self._pause_s or 0.0
        await anyio.sleep_until(self._asked_at + min(seconds, LEAST_BETWEEN_S))
        with anyio.move_on_after(self._next_round_at - anyio.current_time()):
            await self._wanted.wait()
        self._retry_s = FIRST_RETRY_S if self._wanted.is_set() else 2 * self._retry_s
        if seconds >= self._discovery.interval:
            self._extra_wait = 0.0


def registry_url(address: str, what: str, topic: str = "") -> str:
    """The URL of a query (`lookup`, `topics`, `nodes` or `channels`) to the registry at this address.

    An address is `host:port`, or a URL of http or https with a port. A path in it replaces the default `/lookup`; for
    other queries, a final `/lookup` in it is replaced, or else the query is appended. A query string is kept. Raises
    `ValueError` for an address without a port and for other schemes.
    """
    parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a registry needs http or https, not {parts.scheme}: {address!r}")
    if not parts.hostname or parts.port is None:
        raise ValueError(f"missing port in address {address!r}")
    path = parts.path.rstrip("/") or "/lookup"
    if what != "lookup":
        path = f"{path.removesuffix('/lookup')}/{what}"
    query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    if topic:
        query.append(("topic", topic))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, urllib.parse.urlencode(query), ""))


def _query(topic: str | None) -> tuple[str, str]:
    """The query for nodes: its kind and its topic."""
    return ("nodes", "") if topic is None else ("lookup", topic)


def _parse(status: int, body: bytes, what: str) -> dict[str, Any]:
    if status == 404 and b"TOPIC_NOT_FOUND" in body:
        return {}
    if status == 404:
        raise ValueError(f"status 404 for /{what}: this is not the HTTP address of an nsqlookupd")
    if status != 200:
        raise ValueError(f"status {status}")
    answer = decode_json(body)
    if isinstance(answer, dict) and isinstance(answer.get("data"), dict):
        answer = answer["data"]  # as old registries wrap it
    if not isinstance(answer, dict):
        raise ValueError("the answer is not a JSON object")
    return answer


def _version_of(answer: Answer) -> str:
    """Empty unless there is a version that can be sent back."""
    for name, value in answer.headers:
        if name.lower() == VERSION_HEADER and _VERSION.fullmatch(value):
            return value.decode()
    return ""


def _fields(known: Mapping[str, _Reply]) -> list[dict[str, Any]]:
    return [reply.fields for reply in known.values()]


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
    """None for an entry without a usable address."""
    if not isinstance(fields, dict):
        return None
    host, port = fields.get("broadcast_address"), fields.get("tcp_port")
    if (
        not isinstance(host, str)
        or not _HOST.fullmatch(host)
        or type(port) is not int
        or not 1 <= port <= 65535
    ):
        return None
    http_port = fields.get("http_port")
    return Node(
        host,
        port,
        http_port=http_port if type(http_port) is int and 1 <= http_port <= 65535 else 0,
        **{name: _text(fields.get(name)) for name in _TEXTS},
    )


_TEXTS = ("hostname", "version", "topology_region", "topology_zone")
_VERSION: Final = re.compile(rb"[0-9A-Za-z._~-]{1,64}")
_HOST: Final = re.compile(r"[\w.:%~-]{1,255}")
"""A host name or address; internationalised ones as well."""


def _text(value: Any) -> str:
    return value[:MAX_TEXT] if isinstance(value, str) else ""


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _reason_of(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {timeout:g} s"
    return str(error) or type(error).__name__


async def _fetch(tls: TlsFactory, url: str, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """With a client for each request, as polls are a minute apart."""
    options = HttpOptions(
        connect_timeout=timeout_s,
        request_timeout=timeout_s,
        max_body=MAX_ANSWER,
        max_redirects=MAX_REDIRECTS,
        leave_host=False,
        tls=tls,
    )
    return await HttpClient(options).ask(url, headers=headers)
