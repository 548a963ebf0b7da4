"""Fixtures that the tests of nsqd share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.nsqd.protocol_v2.serving import Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A broker behind real sockets, for clients without layers."""
    async with serving("plain", limit=60) as server:
        yield server
