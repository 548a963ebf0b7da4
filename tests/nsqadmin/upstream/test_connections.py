"""Slots for requests, and how long idle connections are kept."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator, Iterable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nsqadmin.upstream.connections import MAX_PARALLEL, MAX_PER_DAEMON, Connections
from nsqkit.http_client import HttpClient, HttpOptions

A, B, C = (f"http://{name}.example:4151/stats" for name in "abc")


@contextlib.asynccontextmanager
async def open_connections(parallel: int = 64) -> AsyncIterator[Connections]:
    made = Connections(HttpOptions(max_idle=2), parallel)
    try:
        yield made
    finally:
        await made.aclose()


async def client_of(connections: Connections, url: str) -> HttpClient:
    async with connections.client(url, keep=True) as client:
        return client


async def served_at_once(connections: Connections, urls: Iterable[str]) -> list[str]:
    """The URLs that got a client, one after the other, while none was given back."""
    served = []

    async def hold(url: str) -> None:
        async with connections.client(url, keep=True):
            served.append(url)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(hold, url)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return served


class TestSlots:
    async def test_each_daemon_has_slots_of_its_own(self) -> None:
        async with open_connections() as connections:
            served = await served_at_once(connections, [A] * (MAX_PER_DAEMON + 5) + [B])
        assert (served.count(A), served.count(B)) == (MAX_PER_DAEMON, 1)

    async def test_slots_for_all_daemons_are_bounded(self) -> None:
        async with open_connections(parallel=5) as connections:
            assert len(await served_at_once(connections, [A, A, A, B, B, B, C])) == 5

    async def test_a_request_that_waits_for_its_daemon_takes_no_slot_of_all(self) -> None:
        async with open_connections(parallel=MAX_PER_DAEMON + 1) as connections:
            assert B in await served_at_once(connections, [A] * (MAX_PER_DAEMON + 5) + [B])

    async def test_cancelled_requests_give_their_slots_back(self) -> None:
        async with open_connections(parallel=2) as connections:
            for _ in range(3):
                assert len(await served_at_once(connections, [A, A, B])) == 2

    @pytest.mark.parametrize(
        ("descriptors", "parallel"),
        [(1024, 512), (1 << 20, MAX_PARALLEL), (resource.RLIM_INFINITY, MAX_PARALLEL)],
    )
    def test_half_of_the_descriptors_are_left_for_browsers(
        self, descriptors: int, parallel: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
        assert Connections(HttpOptions()).parallel == parallel


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[HttpClient]:
    """The clients that were closed."""
    closed: list[HttpClient] = []

    async def aclose(client: HttpClient) -> None:
        await trio.lowlevel.checkpoint()
        closed.append(client)

    monkeypatch.setattr(HttpClient, "aclose", aclose)
    return closed


class TestIdleConnections:
    async def test_queries_to_a_daemon_share_one_client(self) -> None:
        async with open_connections() as connections:
            first = await client_of(connections, A)
            assert await client_of(connections, A) is first
            assert await client_of(connections, B) is not first

    async def test_a_change_has_a_client_of_its_own_which_keeps_no_connection(self) -> None:
        async with open_connections() as connections:
            kept = await client_of(connections, A)
            async with connections.client(A, keep=False) as client:
                assert client is not kept
            assert (kept.options.max_idle, client.options.max_idle) == (2, 0)
            assert await client_of(connections, A) is kept

    async def test_clients_unused_for_a_minute_are_closed(
        self, mock_clock: MockClock, closed: list[HttpClient]
    ) -> None:
        async with open_connections() as connections:
            first = await client_of(connections, A)
            await client_of(connections, B)
            mock_clock.jump(40.0)
            await client_of(connections, B)
            mock_clock.jump(30.0)
            await client_of(connections, C)
            assert closed == [first]
            assert await client_of(connections, A) is not first

    async def test_clients_in_use_are_not_closed(
        self, mock_clock: MockClock, closed: list[HttpClient]
    ) -> None:
        async with (
            open_connections() as connections,
            trio.open_nursery() as nursery,
            connections.client(A, keep=True),
        ):
            mock_clock.jump(100.0)
            nursery.start_soon(client_of, connections, B)
            await wait_all_tasks_blocked()
            assert closed == []

    async def test_the_least_recently_used_of_too_many_clients_is_closed(
        self, closed: list[HttpClient]
    ) -> None:
        async with open_connections(parallel=8) as connections:
            await client_of(connections, A)
            second = await client_of(connections, B)
            await client_of(connections, A)
            await client_of(connections, C)
            assert closed == [second]

    async def test_aclose_closes_all_clients(self, closed: list[HttpClient]) -> None:
        async with open_connections() as connections:
            kept = [await client_of(connections, url) for url in (A, B, C)]
        assert closed == kept
