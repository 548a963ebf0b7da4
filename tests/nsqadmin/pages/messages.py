"""Nsqds that show their messages, for the pages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import trio

from nsqadmin.upstream import UpstreamError
from tests.nsqadmin.pages.cluster import NOW

__all__ = ["FakeUpstream", "message", "response"]


def message(seq: int = 0, text: str = "body", **changes: Any) -> dict[str, Any]:
    """A message as `/channel/peek` has it."""
    known = {
        "seq": seq,
        "id": f"{seq:016x}",
        "timestamp": int(NOW * 1e9),
        "size": len(text),
        "truncated": False,
        "encoding": "text",
        "body": text,
        "attempts": 0,
        "due": None,
        "delay": None,
        "consumer": None,
    }
    return {**known, **changes}


def response(*messages: dict[str, Any], following: int | None = None, **changes: Any) -> dict[str, Any]:
    """A page of `/channel/peek`."""
    counts = {"count": len(messages), "examined": len(messages), "next": following}
    return {**counts, "messages": list(messages), **changes}


@attrs.define
class FakeUpstream:
    """Answers each nsqd's requests with its response: a page, an error, or nothing for ever (None).

    `extents`: the same, for what is there for replays, and `redrives` for dead letters. `asked`: for pages.
    """

    responses: Mapping[str, dict[str, Any] | str | None]
    asked: list[tuple[str, dict[str, str]]] = attrs.field(factory=list)
    extents: dict[str, dict[str, Any] | str | None] = attrs.field(factory=dict)
    redrives: dict[str, dict[str, Any] | str | None] = attrs.field(factory=dict)
    decoder: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))

    async def get(self, address: str, path: str, params: Mapping[str, str]) -> bytes:
        await trio.lowlevel.checkpoint()
        if path == "/channel/seek":
            found = self.extents.get(address, {"oldest": None})
        elif path == "/channel/redrive":
            found = self.redrives.get(address, {"state": "none", "moved": 0, "left": 0, "dead_topic": None})
        else:
            self.asked.append((address, dict(params)))
            found = self.responses[address]
        if found is None:
            await trio.sleep_forever()
        if isinstance(found, str):
            raise UpstreamError(found)
        return json.dumps(found).encode()

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        yield
