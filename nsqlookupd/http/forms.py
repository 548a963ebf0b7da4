"""The JSON of producers, in /lookup, /nodes and /debug, with the order of keys of the original; and that of /replicas.

All but the first may be long: they are encoded in slices, and other tasks run between two slices. Producers that
connect or disconnect meanwhile may or may not be included; each entry is consistent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nsqkit.yielder import Yielder
from nsqlookupd.registry import Found, Producer, ProducerInfo, Registry
from nsqlookupd.witness import Shown, Witness

__all__ = ["debug_json", "lookup_form", "nodes_json", "replicas_json"]

NEVER_NS = -6795364578871345152
"""The original's value for a time that was never set."""
_SLICE_SECONDS = 0.004

_encode = msgspec.json.encode


def lookup_form(found: Found) -> dict[str, Any]:
    """The result of a look-up, for `json_body`."""
    return {"channels": found.channels, "producers": [_form(info) for info in found.producers]}


def _form(info: ProducerInfo) -> dict[str, Any]:
    return {
        "remote_address": info.remote_address,
        "hostname": info.hostname,
        "broadcast_address": info.broadcast_address,
        "tcp_port": info.tcp_port,
        "http_port": info.http_port,
        "version": info.version,
        "topology_zone": info.topology_zone,
        "topology_region": info.topology_region,
    }


async def nodes_json(registry: Registry, witness: Witness, now: float) -> msgspec.Raw:
    """The active producers, each with its topics and its tombstones in them; and what it has announced of copies."""
    pieces = await Yielder(_SLICE_SECONDS).map(
        lambda producer: _encode(_node(registry, witness, producer, now)), registry.nodes(now)
    )
    return msgspec.Raw(b'{"producers":[' + b",".join(pieces) + b"]}")


def _node(registry: Registry, witness: Witness, producer: Producer, now: float) -> dict[str, Any]:
    topics, info = list(producer.topics), producer.info
    tombstones = [registry.is_tombstoned(producer, topic, now) for topic in topics]
    node = {**_form(info), "tombstones": tombstones, "topics": topics, **_copies_form(info)}
    return {**node, "followers": witness.terms_of(info.life).followers} if info.life else node


def _copies_form(info: ProducerInfo) -> dict[str, Any]:
    """Nothing for a producer that has to do with no copies: as the original has it."""
    if not info.life:
        return {}
    return {
        "life": info.life,
        "replication_address": info.replication_address,
        "stands_in_for": info.stands_in_for,
    }


async def replicas_json(witness: Witness) -> msgspec.Raw:
    """What the witness knows: every life, the longest silent first."""
    pieces = await Yielder(_SLICE_SECONDS).map(lambda shown: _encode(_life(shown)), list(witness.shown()))
    head = _encode({"witness": witness.id, "watched_seconds": round(witness.watched_seconds, 1)})
    return msgspec.Raw(head[:-1] + b',"lives":[' + b",".join(pieces) + b"]}")


def _life(shown: Shown) -> dict[str, Any]:
    return {
        "life": shown.info.life,
        "incarnation": shown.info.incarnation,
        "node": shown.info.node,
        "topology_zone": shown.info.topology_zone,
        "replication_address": shown.info.replication_address,
        "heard_seconds": round(shown.heard_seconds, 1),
        "connections": shown.connections,
        "silent": shown.silent,
        "stopped": shown.stopped,
        "followers": shown.terms.followers,
        "adopt_after_seconds": shown.terms.adopt_after,
        "restart_grace_seconds": shown.terms.restart_grace,
        "granted_to": shown.granted_to,
        "stands_in_for": shown.info.stands_in_for,
        "served_by": shown.served_by,
    }


async def debug_json(registry: Registry, now: float, wall_ns: int) -> msgspec.Raw:
    """All topics and channels with producers, by `category:topic:channel`.

    `now` and `wall_ns`: the same moment, by the registry's clock and as wall time.
    """
    origin_ns = wall_ns - _ns(now)
    rows = [(key, list(producers)) for key, producers in registry.registered()]
    pieces, yielder = [], Yielder(_SLICE_SECONDS)
    for (category, topic, channel), producers in rows:
        entries = []
        for producer in producers:
            tombstoned_at = producer.topics.get(topic) if category == "topic" else None
            entries.append(_entry(producer, tombstoned_at, origin_ns))
            await yielder.maybe_yield()
        pieces.append(_encode(f"{category}:{topic}:{channel}") + b":" + _encode(entries))
    return msgspec.Raw(b"{" + b",".join(pieces) + b"}")


def _entry(producer: Producer, tombstoned_at: float | None, origin_ns: int) -> dict[str, Any]:
    info = producer.info
    return {
        "broadcast_address": info.broadcast_address,
        "hostname": info.hostname,
        "http_port": info.http_port,
        "id": info.remote_address,
        "last_update": origin_ns + _ns(producer.last_update),
        "tcp_port": info.tcp_port,
        "tombstoned": tombstoned_at is not None,
        "tombstoned_at": NEVER_NS if tombstoned_at is None else origin_ns + _ns(tombstoned_at),
        "topology_region": info.topology_region,
        "topology_zone": info.topology_zone,
        "version": info.version,
        **_copies_form(info),
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
