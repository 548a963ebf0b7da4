"""What is asked of the daemons. Responses are values of `decoding`, or an `UpstreamError` that names the daemon."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from nsqadmin.upstream.audit import AuditPart, decode_audit, params_of
from nsqadmin.upstream.client import Upstream, UpstreamError
from nsqadmin.upstream.decoding import (
    SMALL,
    Entries,
    Info,
    Producer,
    Stats,
    decode_info,
    decode_names,
    decode_producers,
    decode_stats,
)
from nsqadmin.upstream.messages import (
    Extent,
    MessagePage,
    Redrive,
    decode_extent,
    decode_messages,
    decode_redrive,
)
from nsqkit.audit import AuditQuery
from nsqkit.decoding import DecodeError
from nsqkit.logging import RateLimitedLogger, get_logger

__all__ = [
    "Info",
    "Producer",
    "Stats",
    "audit",
    "channels",
    "info",
    "lookup",
    "messages",
    "nodes",
    "redrive",
    "stats",
    "topics",
]

ResponseT = TypeVar("ResponseT")
EntryT = TypeVar("EntryT")

_bad_entries = RateLimitedLogger(get_logger("nsqadmin.poll"))


async def topics(upstream: Upstream, registry: str) -> list[str]:
    """All topics that a registry knows."""
    decode_body = functools.partial(decode_names, kind="topics")
    return await _get_list(upstream, registry, "/topics", {}, decode_body)


async def channels(upstream: Upstream, registry: str, topic: str) -> list[str]:
    """The channels that a registry knows of a topic."""
    decode_body = functools.partial(decode_names, kind="channels")
    return await _get_list(upstream, registry, "/channels", {"topic": topic}, decode_body)


async def lookup(upstream: Upstream, registry: str, topic: str) -> list[Producer]:
    """The nsqds that have a topic; `UpstreamError` if the registry does not know the topic."""
    return await _get_list(upstream, registry, "/lookup", {"topic": topic}, decode_producers)


async def nodes(upstream: Upstream, registry: str) -> list[Producer]:
    """All nsqds that a registry knows, each with its topics."""
    return await _get_list(upstream, registry, "/nodes", {}, decode_producers)


async def info(upstream: Upstream, nsqd: str) -> Info:
    """An nsqd's description of itself."""
    return await _get(upstream, nsqd, "/info", {}, decode_info)


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
    return await _get(upstream, nsqd, "/stats", params, functools.partial(decode_stats, clients=clients))


async def messages(
    upstream: Upstream,
    nsqd: str,
    topic: str,
    channel: str,
    *,
    state: str,
    start: int,
    limit: int,
    max_bytes: int,
    contains: str = "",
) -> MessagePage:
    """Messages of a channel on one nsqd, in one state; with `contains` those whose bodies contain it."""
    params = {"topic": topic, "channel": channel, "state": state, "from": str(start), "limit": str(limit)}
    params["max_bytes"] = str(max_bytes)
    if contains:
        params["contains"] = contains
    return await _get(upstream, nsqd, "/channel/peek", params, decode_messages)


async def audit(upstream: Upstream, daemon: str, query: AuditQuery) -> AuditPart:
    """The last lines of the audit trail of an nsqd or nsqlookupd."""
    return await _get(upstream, daemon, "/audit", params_of(query), decode_audit)


async def extent(upstream: Upstream, nsqd: str, topic: str, channel: str) -> Extent:
    """From when on one nsqd has everything of a topic, for replays."""
    return await _get(upstream, nsqd, "/channel/seek", {"topic": topic, "channel": channel}, decode_extent)


async def redrive(upstream: Upstream, nsqd: str, topic: str, channel: str) -> Redrive:
    """How far the dead letters of a channel have been put back on one nsqd."""
    return await _get(
        upstream, nsqd, "/channel/redrive", {"topic": topic, "channel": channel}, decode_redrive
    )


async def _get(
    upstream: Upstream,
    address: str,
    path: str,
    params: dict[str, str],
    decode_body: Callable[[bytes], ResponseT],
) -> ResponseT:
    body = await upstream.get(address, path, params)
    try:
        if len(body) <= SMALL:
            return decode_body(body)
        with upstream.reserved(len(body)):
            return await trio.to_thread.run_sync(decode_body, body, limiter=upstream.decoder)
    except DecodeError as error:
        raise UpstreamError(f"GET http://{address}{path}: unexpected response: {error}") from error


async def _get_list(
    upstream: Upstream,
    registry: str,
    path: str,
    params: dict[str, str],
    decode_body: Callable[[bytes], Entries[EntryT]],
) -> list[EntryT]:
    entries = await _get(upstream, registry, path, params, decode_body)
    if entries.left_out:
        _bad_entries.log(
            time.monotonic(),
            "POLL: nsqlookupd %s: %s: %d entries left out, the first: %s; see which nsqd registered it",
            registry,
            path,
            entries.left_out,
            entries.first_left_out,
        )
    return entries.values
