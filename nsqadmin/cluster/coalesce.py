"""Concurrent and recent requests for the same thing share one response: many browsers on a page cost one request."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import attrs
import trio

__all__ = ["Coalescer"]

ResultT = TypeVar("ResultT")

_MAX_KEPT = 64


@attrs.define(eq=False)
class _Call(Generic[ResultT]):
    started_at: float
    done: trio.Event = attrs.field(factory=trio.Event)
    result: ResultT | None = None


@attrs.define(eq=False)
class Coalescer(Generic[ResultT]):
    """Keeps each result for `keep_s` seconds after the begin of its call, and at most a few dozen of them."""

    keep_s: float
    _calls: OrderedDict[Hashable, _Call[ResultT]] = attrs.field(factory=OrderedDict, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    @contextlib.asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        """Make calls in this nursery while the block runs: the first caller may be cancelled before the result."""
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None

    async def get(self, key: Hashable, function: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """The result of `function`, which `key` identifies; it must not raise. RuntimeError when not running."""
        call = self._calls.get(key)
        if call is None:
            if self._nursery is None:
                raise RuntimeError("no calls before the start or after the end")
            call = self._calls[key] = _Call(trio.current_time())
            self._calls.move_to_end(key)
            # A dropped call that is still pending finishes for those who wait for it.
            if len(self._calls) > _MAX_KEPT:
                self._calls.popitem(last=False)
            self._nursery.start_soon(self._run, key, call, function)
        await call.done.wait()
        assert call.result is not None
        return call.result

    async def _run(
        self, key: Hashable, call: _Call[ResultT], function: Callable[[], Awaitable[ResultT]]
    ) -> None:
        call.result = await function()
        call.done.set()
        await trio.sleep_until(call.started_at + self.keep_s)
        # Not when it is asked for again: that may be never, and a result can have 50,000 consumers.
        if self._calls.get(key) is call:
            del self._calls[key]
