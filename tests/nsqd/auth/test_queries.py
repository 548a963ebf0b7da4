"""Questions to an auth server on behalf of sessions."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from nsqd.auth import AuthQueries
from nsqd.protocol_v2.session import Session
from nsqkit.access import NOTHING
from tests.nsqd.auth.answers import parsed
from tests.nsqd.protocol_v2.harness import sized
from tests.nsqd.protocol_v2.serving import Server
from tests.timing import patience


async def test_an_internal_error_after_the_answer_of_an_auth_server_ends_one_connection_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:

    class EverythingAllowed:
        async def query(self, request: object) -> Any:
            rule = {"topic": ".*", "channels": [".*"], "permissions": ["subscribe", "publish"]}
            return parsed(json.dumps({"ttl": 60, "authorizations": [rule]}).encode(), trio.current_time())

    peer, other = await server.connect(), await server.connect()
    feed = Session.feed

    def broken(session: Session, data: bytes) -> None:
        if session is peer.session and not data:
            raise RuntimeError("a bug")
        feed(session, data)

    monkeypatch.setattr(Session, "feed", broken)
    async with trio.open_nursery() as nursery:
        queries = AuthQueries(EverythingAllowed(), server.rounds)  # type: ignore[arg-type]
        nursery.start_soon(queries.run)
        await server.settled()
        server.context.ask = queries.ask
        server.context.restrict(NOTHING)
        await peer.send(b"AUTH\n" + sized(b"s"))
        await peer.all()
        assert peer.session.closed
        await other.send(b"AUTH\n" + sized(b"s"))
        with trio.fail_after(patience(5)):
            await other.frame()
        nursery.cancel_scope.cancel()


async def test_a_connection_that_ends_withdraws_its_question(server: Server) -> None:
    """Otherwise strangers that connect, send an AUTH and are gone would leave a task each for half a minute (I12)."""
    asking = 0

    class Hangs:
        async def query(self, request: object) -> Any:
            nonlocal asking
            asking += 1
            try:
                await trio.sleep_forever()
            finally:
                asking -= 1

    async with trio.open_nursery() as nursery:
        queries = AuthQueries(Hangs(), server.rounds)  # type: ignore[arg-type]
        nursery.start_soon(queries.run)
        await server.settled()
        server.context.ask = queries.ask
        server.context.restrict(NOTHING)
        peer = await server.connect()
        await peer.send(b"AUTH\n" + sized(b"s"))
        await server.settled()
        assert asking == 1
        server.connection_of(peer).close()
        await server.settled()
        assert asking == 0
        nursery.cancel_scope.cancel()
