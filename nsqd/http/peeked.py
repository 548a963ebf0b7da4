"""The responses of `/channel/peek` and `/topic/peek`: JSON, made in a thread of its own."""

from __future__ import annotations

import base64
import codecs
import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import attrs

from nsqd.broker import Subscription
from nsqd.broker.peek import Entry, Page
from nsqd.http.message_filter import MessageFilter
from nsqd.log.look import Looked
from nsqd.log.origin import Origin
from nsqd.log.records import FormatError
from nsqkit.service.http.message import json_bytes
from nsqkit.wire.frames import BODY, HEAD

__all__ = ["Moment", "PageQuery", "Peeked", "message_fields", "waiting_fields"]

# Bytes of the log that are read for one page, without and with a filter: what is searched for may take longer.
READ_BYTES = 4 << 20
SEARCH_BYTES = 32 << 20
# What the event loop does for one page takes so long for each message that a search is made of several pages.
PAGE_MESSAGES = 1000
# A thread that computes keeps the event loop from running for up to 5 ms. After so many messages it lets others run.
TURN_MESSAGES = 16


@attrs.frozen(kw_only=True)
class PageQuery:
    """What is asked for. `max_bytes`: of bodies; a longer body is cut. `examine`: messages looked at with a filter."""

    start: int = 0
    limit: int = 100
    max_bytes: int = 1 << 20
    examine: int = 1000
    filter: MessageFilter = attrs.field(factory=MessageFilter)

    @property
    def most(self) -> int:
        """How many messages are looked at."""
        return self.examine if self.filter else self.limit


@attrs.frozen(eq=False)
class Moment:
    """When a page was made: the broker's clock and the wall clock, and who the clients are that have its messages."""

    now: float
    wall_ns: int
    consumers: Mapping[Subscription, Mapping[str, str]]


@attrs.define(eq=False)
class Peeked:
    """A response that is being made of one page after the other. `next`: where the next one begins; None: nowhere."""

    query: PageQuery
    shown: list[bytes] = attrs.field(factory=list)
    room: int = attrs.field(init=False)  # bytes of bodies
    examined: int = 0
    count: int = 0
    next: int | None = attrs.field(init=False)
    is_complete: bool = False
    _bytes_read: int = 0

    def __attrs_post_init__(self) -> None:
        self.next, self.room = self.query.start, self.query.max_bytes

    @property
    def wanted(self) -> int:
        """How many messages the next page is to have at most."""
        return min(PAGE_MESSAGES, self.query.most - self.examined)

    def add(self, page: Page, moment: Moment) -> None:
        """Add a page of `wanted` messages from `next` on. *Any thread*; `OSError` as `Page.frames`."""
        query, shown = self.query, list[bytes]()
        room, examined, is_full = self.room, 0, False
        most_read = (SEARCH_BYTES if query.filter else READ_BYTES) - self._bytes_read
        with page.messages() as messages:
            for entry, message in zip(page.entries, _in_turns(messages), strict=True):
                body = b"" if message is None else message.frame[BODY:]
                if not query.filter or (message is not None and query.filter.matches(body)):
                    size = min(len(body), query.max_bytes)
                    is_full = len(self.shown) + len(shown) == query.limit or size > room
                    if is_full:
                        break
                    shown.append(json_bytes(_fields(entry, message, moment, query.max_bytes)))
                    room -= size
                examined += 1
                is_full = page.bytes_read >= most_read
                if is_full:
                    break
        self.shown += shown
        self.room = room
        self.examined += examined
        self._bytes_read += page.bytes_read
        self.count = page.count
        self.next = page.start_at(examined)
        self.is_complete = is_full or self.next is None or self.examined >= query.most

    def as_json(self, head: Mapping[str, Any]) -> bytes:
        """The response; `head`: its first fields."""
        rest = {**head, "count": self.count, "examined": self.examined, "next": self.next}
        return json_bytes(rest)[:-1] + b',"messages":[' + b",".join(self.shown) + b"]}"


def _in_turns(messages: Iterator[Looked | None]) -> Iterator[Looked | None]:
    for number, message in zip(count(1), messages, strict=False):
        if number % TURN_MESSAGES == 0:
            time.sleep(0)
        yield message


def _fields(entry: Entry, message: Looked | None, moment: Moment, max_bytes: int) -> dict[str, Any]:
    return message_fields(entry.seq, message, max_bytes) | waiting_fields(entry, moment)


def waiting_fields(entry: Entry, moment: Moment) -> dict[str, Any]:
    """How a message waits. `due`: when its delay ends, or when it times out, in ns since 1970."""
    due = None if entry.due is None else moment.wall_ns + round((entry.due - moment.now) * 1e9)
    consumer = None if entry.owner is None else moment.consumers.get(entry.owner)
    return {"attempts": entry.attempts, "due": due, "delay": entry.delay_ns, "consumer": consumer}


def message_fields(seq: int, message: Looked | None, max_bytes: int) -> dict[str, Any]:
    """What a message is, its body cut to `max_bytes`. All but `seq` is null if it cannot be read.

    `origin`: where a dead letter is from; other messages have no such field.
    """
    if message is None:
        names = ("id", "timestamp", "size", "truncated", "encoding", "body")
        return {"seq": seq, **dict.fromkeys(names)}
    frame = message.frame
    _, _, timestamp, _, message_id = HEAD.unpack_from(frame)
    size = len(frame) - BODY
    is_cut = size > max_bytes
    body = frame[BODY : BODY + max_bytes]
    try:
        # Of a body that is cut, the last character may be, too.
        text, encoding = codecs.getincrementaldecoder("utf-8")().decode(body, final=not is_cut), "text"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode(), "base64"
    return {
        "seq": seq,
        "id": message_id.decode("latin-1"),
        "timestamp": timestamp,
        "size": size,
        "truncated": is_cut,
        "encoding": encoding,
        "body": text,
        **({} if message.origin is None else {"origin": _origin(message.origin)}),
    }


def _origin(data: bytes) -> dict[str, Any] | None:
    try:
        return attrs.asdict(Origin.decode(data))
    except FormatError:
        return None
