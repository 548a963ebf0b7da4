"""The responses of the daemons, decoded and checked.

A large `/stats` is decoded a topic at a time in a worker thread: a single call would hold the interpreter lock, and so
the event loop, for a tenth of a second with 50,000 clients.

A registry repeats what anybody has registered there. Each entry of its lists is decoded by itself: one of the wrong
type, without a usable address or with an invalid name is left out and logged, and costs nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
import trio

from nsqadmin.addresses import host_and_port, join_host_port
from nsqadmin.model import Copies, Draining, TopicStats
from nsqadmin.upstream.client import Upstream, UpstreamError
from nsqadmin.upstream.copies import read_copies
from nsqadmin.upstream.draining import read_draining
from nsqkit.decoding import DecodeError
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.service.typed_json import decode_json_as, decode_outline
from nsqkit.wire.names import is_valid_name

__all__ = ["Info", "Producer", "Stats", "channels", "info", "lookup", "nodes", "stats", "topics"]

ResponseT = TypeVar("ResponseT")

_bad_entries = RateLimitedLogger(get_logger("nsqadmin.poll"))

_MAX_HOST = 255
_SMALL = 128 * 1024  # bytes, decoded in about a millisecond


class Info(msgspec.Struct):
    """An nsqd, as it describes itself."""

    broadcast_address: str
    tcp_port: int
    http_port: int
    hostname: str = ""
    version: str = ""
    topology_zone: str = ""
    topology_region: str = ""


class Producer(Info):
    """An nsqd, as a registry describes it."""

    remote_address: str = ""
    topics: list[Any] | None = None
    """In /nodes only; `tombstones` is parallel to it. Entries may have any type."""
    tombstones: list[Any] | None = None


class Stats(msgspec.Struct):
    """Statistics of one nsqd."""

    version: str = ""
    health: str = ""
    start_time: int = 0
    topics: list[TopicStats] | None = None
    draining: Draining | None = None
    """None if it is not draining."""
    copies: Copies | None = None
    """None if it does not replicate."""
    durability: str = ""
    """Empty for the original."""


class _StatsHead(msgspec.Struct, kw_only=True):
    version: str = ""
    health: str = ""
    start_time: int = 0
    durability: str = ""
    draining: msgspec.Raw = msgspec.Raw()
    """Not decoded with the rest, because an error in it must not cost the whole response; nor are the copies."""
    copies: msgspec.Raw = msgspec.Raw()


class _WholeStats(_StatsHead, kw_only=True):
    topics: list[TopicStats] | None = None


class _SlicedStats(_StatsHead, kw_only=True):
    topics: list[msgspec.Raw] | None = None


class _Lists(msgspec.Struct):
    """The responses of a registry."""

    producers: list[msgspec.Raw] | None = None
    topics: list[msgspec.Raw] | None = None
    channels: list[msgspec.Raw] | None = None


async def topics(upstream: Upstream, registry: str) -> list[str]:
    """All topics that a registry knows."""
    return _names(registry, (await _get_lists(upstream, registry, "/topics", {})).topics)


async def channels(upstream: Upstream, registry: str, topic: str) -> list[str]:
    """The channels that a registry knows of a topic."""
    return _names(registry, (await _get_lists(upstream, registry, "/channels", {"topic": topic})).channels)


async def lookup(upstream: Upstream, registry: str, topic: str) -> list[Producer]:
    """The nsqds that have a topic; `UpstreamError` if the registry does not know the topic."""
    return _producers(registry, (await _get_lists(upstream, registry, "/lookup", {"topic": topic})).producers)


async def nodes(upstream: Upstream, registry: str) -> list[Producer]:
    """All nsqds that a registry knows, each with its topics."""
    return _producers(registry, (await _get_lists(upstream, registry, "/nodes", {})).producers)


async def info(upstream: Upstream, nsqd: str) -> Info:
    """An nsqd's description of itself."""
    return await _get(upstream, nsqd, "/info", {}, Info)


async def stats(
    upstream: Upstream,
    nsqd: str,
    topic: str = "",
    channel: str = "",
    *,
    clients: bool = False,
    timings: bool = False,
    memory: bool = True,
) -> Stats:
    """Statistics of an nsqd: all topics, or one, or one channel of it; with or without the clients, and the clients
    with or without their timings, which only the nsqds of this project report.

    `memory=False` asks for a response without the figures of memory, which cost an nsqd time.
    """
    params = {"format": "json"}
    if topic:
        params["topic"] = topic
    if channel:
        params["channel"] = channel
    if not clients:
        params["include_clients"] = "false"
    if timings:
        params["include_timings"] = "true"
    if not memory:
        params["include_mem"] = "false"
    body = await upstream.get(nsqd, "/stats", params)
    try:
        if len(body) <= _SMALL:
            whole = decode_json_as(body, _WholeStats)
            return _stats(whole, whole.topics)
        return await trio.to_thread.run_sync(_decode_sliced, body)
    except DecodeError as error:
        raise UpstreamError(f"GET http://{nsqd}/stats: not a response of nsqd: {error}") from error


def _decode_sliced(body: bytes) -> Stats:
    # A worker thread alone would not help: msgspec holds the interpreter lock during a call. Between two topics the
    # event loop's thread can take it.
    outer = decode_json_as(body, _SlicedStats)
    found = None
    if outer.topics is not None:
        found = [decode_json_as(topic, TopicStats) for topic in outer.topics]
    return _stats(outer, found)


def _stats(head: _StatsHead, topics: list[TopicStats] | None) -> Stats:
    return Stats(
        head.version,
        head.health,
        head.start_time,
        topics,
        read_draining(head.draining),
        read_copies(head.copies),
        head.durability,
    )


async def _get(
    upstream: Upstream, address: str, path: str, params: dict[str, str], kind: type[ResponseT]
) -> ResponseT:
    body = await upstream.get(address, path, params)
    try:
        return decode_json_as(body, kind)
    except DecodeError as error:
        raise UpstreamError(f"GET http://{address}{path}: unexpected response: {error}") from error


async def _get_lists(upstream: Upstream, registry: str, path: str, params: dict[str, str]) -> _Lists:
    body = await upstream.get(registry, path, params)
    try:
        return decode_outline(body, _Lists)
    except DecodeError as error:
        raise UpstreamError(f"GET http://{registry}{path}: unexpected response: {error}") from error


def _names(registry: str, entries: Iterable[msgspec.Raw] | None) -> list[str]:
    found = []
    for entry in entries or ():
        try:
            name = decode_json_as(entry, str)
        except DecodeError as error:
            _leave_out(registry, entry, error)
            continue
        if is_valid_name(name):
            found.append(name)
        else:
            _leave_out(registry, entry, "invalid name")
    return found


def _producers(registry: str, entries: Iterable[msgspec.Raw] | None) -> list[Producer]:
    found = []
    for entry in entries or ():
        try:
            producer = decode_json_as(entry, Producer)
            _check_address(producer)
        except ValueError as error:  # also a DecodeError
            _leave_out(registry, entry, error)
        else:
            found.append(producer)
    return found


def _check_address(producer: Producer) -> None:
    """Raise ValueError if no request can be sent to this nsqd, or its ports cannot exist."""
    if not 0 < len(producer.broadcast_address) <= _MAX_HOST or not 0 <= producer.tcp_port <= 65535:
        raise ValueError("no address")
    host_and_port(join_host_port(producer.broadcast_address, producer.http_port))


def _leave_out(registry: str, entry: msgspec.Raw, reason: object) -> None:
    _bad_entries.log(
        time.monotonic(),
        "POLL: nsqlookupd %s: entry left out: %s: %.200r; see which nsqd registered it",
        registry,
        reason,
        bytes(entry),
    )
