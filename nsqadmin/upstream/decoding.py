"""The bytes of responses, decoded into typed values within bounds: the only place that does so.

Whatever the bytes are, the result is a value of the type or a `DecodeError`. Rules:

- **Types** are those of `nsqadmin.model`: integers have 64 bits, floats are finite, names valid, texts short. So what
  is computed from the values needs no checks of its own.
- **Memory.** A few bytes of JSON can become an object of hundreds: the number of values is limited, not only that of
  bytes, and an nsqd's topics and channels are limited once more, as they are kept.
- **Event loop.** Large responses are for a worker thread, and since a call of msgspec holds the interpreter's lock, no
  call does more than to find the ends of the parts of a list (2 GB/s), or to decode one of them.
- **What others wrote.** An nsqd repeats what its clients say of themselves: long texts are cut. A registry repeats what
  anybody has registered: each entry is decoded by itself, and one of the wrong type, without a usable address or with
  an invalid name is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import attrs
import msgspec

from nsqadmin.addresses import host_and_port, join_host_port
from nsqadmin.model import (
    ChannelStats,
    ClientStats,
    Copies,
    Count,
    Draining,
    Name,
    NodeTopic,
    Text,
    TopicStats,
)
from nsqadmin.upstream.copies import read_copies
from nsqadmin.upstream.draining import read_draining
from nsqkit.decoding import DecodeError
from nsqkit.service.typed_json import decode_bounded
from nsqkit.wire.names import is_valid_name

__all__ = ["SMALL", "Entries", "Info", "Producer", "Stats"]
__all__ += ["decode_info", "decode_names", "decode_producers", "decode_stats"]

ValueT = TypeVar("ValueT")

SMALL: Final = 64 * 1024
"""Bytes that are decoded in a millisecond or two, and need no worker thread."""
MAX_OBJECTS: Final = 250_000
"""Of one response: objects and arrays. 50,000 clients are as many; 10,000 topics with two channels and latencies are
180,000."""
MAX_VALUES: Final = 1_500_000
"""Of one response: members of all objects and arrays. A client has 25; an entry of an array takes 80 bytes."""
MAX_NAMES: Final = 100_000
"""Topics and channels of one nsqd, or topics of one registry."""
MAX_NODES: Final = 2_000
"""Nsqds of one registry. Each is polled, and anybody can register any number."""
MAX_LEFT_OUT: Final = 10_000
"""Invalid entries of one response of a registry."""
_LONG_CLIENT: Final = 8 * 1024  # bytes; most have 700
_MAX_CLIENT_TEXT: Final = 1_024  # characters
_SHOWN: Final = 200  # bytes of an entry
_STEP: Final = 1 << 20  # bytes; counting in them takes about a millisecond

_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class Info(msgspec.Struct):
    """An nsqd, as it describes itself."""

    broadcast_address: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    tcp_port: _Port
    http_port: _Port
    hostname: Text = ""
    version: Text = ""
    topology_zone: Text = ""
    topology_region: Text = ""


class Producer(Info):
    """An nsqd, as a registry describes it."""

    remote_address: Text = ""
    topics: list[NodeTopic] = msgspec.field(default_factory=list, name="-topics")
    """Ordered by name; in /nodes only."""


@attrs.frozen
class Entries(Generic[ValueT]):
    """The entries of a registry's list."""

    values: list[ValueT]
    """Those that are valid."""
    left_out: int
    first_left_out: str
    """The reason, and the beginning of the entry; empty if none was left out."""


class Stats(msgspec.Struct):
    """Statistics of one nsqd."""

    version: str = ""
    health: str = ""
    start_time: int = 0
    topics: list[TopicStats] | None = None
    draining: Draining | None = None
    """None if it is not draining."""
    copies: Copies | None = None
    """None if it neither has copies elsewhere nor holds any."""
    durability: str = ""
    """Empty for the original."""


class _ProducerTopics(msgspec.Struct):
    """The lists are parallel. Their entries may have any type."""

    topics: list[Any] | None = None
    tombstones: list[Any] | None = None


class _Lists(msgspec.Struct):
    producers: list[msgspec.Raw] | None = None
    topics: list[msgspec.Raw] | None = None
    channels: list[msgspec.Raw] | None = None


class _Stats(msgspec.Struct):
    version: Text = ""
    health: Text = ""
    start_time: Count = 0
    topics: list[msgspec.Raw] | None = None
    durability: Text = ""
    draining: msgspec.Raw = msgspec.Raw()
    """Not decoded with the rest, because an error in it must not cost the whole response; nor are the copies."""
    copies: msgspec.Raw = msgspec.Raw()


class _Channels(msgspec.Struct):
    channels: list[msgspec.Raw] | None = None


class _Clients(msgspec.Struct):
    clients: list[msgspec.Raw] | None = None


def _check_size(body: bytes) -> None:
    """Raise `DecodeError` if there are too many values in the JSON for its objects to be made."""
    # Those in texts are counted too. That errs on the safe side, and names contain none.
    if _count(body, b"{") + _count(body, b"[") > MAX_OBJECTS or _count(body, b",") > MAX_VALUES:
        raise DecodeError("too many values")


def decode_info(body: bytes) -> Info:
    """A response of an nsqd to /info. Raises `DecodeError`."""
    _check_size(body)
    info = decode_bounded(body, Info)
    _check_address(info)
    return info


def decode_names(body: bytes, kind: Literal["topics", "channels"]) -> Entries[str]:
    """A response of a registry to /topics or /channels. Raises `DecodeError`."""
    lists = _lists(body)
    raws = lists.topics if kind == "topics" else lists.channels
    return _entries(raws, lambda raw: decode_bounded(raw, Name), MAX_NAMES)


def decode_producers(body: bytes) -> Entries[Producer]:
    """A response of a registry to /nodes or /lookup. Raises `DecodeError`."""
    known: dict[tuple[str, bool], NodeTopic] = {}
    return _entries(_lists(body).producers, lambda raw: _producer(raw, known), MAX_NODES)


def _lists(body: bytes) -> _Lists:
    _check_size(body)
    return decode_bounded(body, _Lists)


def _entries(
    raws: list[msgspec.Raw] | None, decode_one: Callable[[msgspec.Raw], ValueT], limit: int
) -> Entries[ValueT]:
    values: list[ValueT] = []
    left_out, first = 0, ""
    for raw in raws or ():
        try:
            if len(values) == limit:
                raise DecodeError(f"more than {limit:,} of them")
            values.append(decode_one(raw))
        except DecodeError as error:
            left_out += 1
            if left_out > MAX_LEFT_OUT:
                raise DecodeError(f"more than {MAX_LEFT_OUT:,} invalid entries, {error}") from None
            first = first or f"{error}: {bytes(raw)[:_SHOWN]!r}"
    return Entries(values, left_out, first)


def _producer(raw: msgspec.Raw, known: dict[tuple[str, bool], NodeTopic]) -> Producer:
    """`known`: the topics of the producers before, which have most topics in common."""
    producer = decode_bounded(raw, Producer)
    _check_address(producer)
    listed = decode_bounded(raw, _ProducerTopics)
    names = listed.topics or []
    tombstones = [*(listed.tombstones or ()), *([False] * len(names))]
    producer.topics = []
    for name, tombstone in zip(names, tombstones, strict=False):
        key = name, bool(tombstone)
        if isinstance(name, str) and (key in known or is_valid_name(name)):
            producer.topics.append(known.setdefault(key, NodeTopic(*key)))
    producer.topics.sort(key=lambda each: each.topic)
    return producer


def _check_address(nsqd: Info) -> None:
    """Raise `DecodeError` if no request can be sent to this nsqd."""
    try:
        host_and_port(join_host_port(nsqd.broadcast_address, nsqd.http_port))
    except ValueError as error:
        raise DecodeError(str(error)) from None


def decode_stats(body: bytes, *, clients: bool) -> Stats:
    """A response of an nsqd to /stats, with or without the clients, which it may send all the same.

    Raises `DecodeError`.
    """
    _check_size(body)
    outline = decode_bounded(body, _Stats)
    topics = None
    if outline.topics is not None:
        topics = [_topic(raw, clients=clients) for raw in outline.topics]
        _check_names([each.topic_name for each in topics], "topic")
        if len(topics) + sum(len(each.channels or ()) for each in topics) > MAX_NAMES:
            raise DecodeError(f"more than {MAX_NAMES:,} topics and channels")
    return Stats(
        outline.version,
        outline.health,
        outline.start_time,
        topics,
        read_draining(outline.draining),
        read_copies(outline.copies),
        outline.durability,
    )


def _topic(raw: msgspec.Raw, *, clients: bool) -> TopicStats:
    topic = decode_bounded(raw, TopicStats)
    channels = decode_bounded(raw, _Channels).channels
    topic.channels = None if channels is None else [_channel(each, clients=clients) for each in channels]
    topic.nodes = None
    _check_names([each.channel_name for each in topic.channels or ()], "channel")
    return topic


def _channel(raw: msgspec.Raw, *, clients: bool) -> ChannelStats:
    channel = decode_bounded(raw, ChannelStats)
    found = decode_bounded(raw, _Clients).clients if clients else None
    channel.clients = None if found is None else [_client(each) for each in found]
    channel.nodes = None
    return channel


def _client(raw: msgspec.Raw) -> ClientStats:
    client = decode_bounded(raw, ClientStats)
    if len(raw) > _LONG_CLIENT:
        for field in client.__struct_fields__:
            value = getattr(client, field)
            if isinstance(value, str):
                setattr(client, field, value[:_MAX_CLIENT_TEXT])
    return client


def _check_names(names: list[str], kind: str) -> None:
    if len(set(names)) < len(names):
        raise DecodeError(f"a {kind} occurs twice")


def _count(body: bytes, byte: bytes) -> int:
    # In steps, between which other threads run.
    return sum([body.count(byte, start, start + _STEP) for start in range(0, len(body), _STEP)])
