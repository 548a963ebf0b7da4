"""Fixtures that the tests of nsqd share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio

from tests.nsqd.protocol_v2.serving import Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A broker behind real sockets, for clients without layers."""
    async with serving("plain", limit=60) as server:
        yield server


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would run in a thread runs at once: a clock that jumps does not wait for threads."""

    async def run_sync(work: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return work(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
