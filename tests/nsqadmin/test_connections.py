"""Who gets a connection when, and how long it is kept."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nsqadmin.options import AdminOptions
from nsqadmin.upstream.connections import MAX_PARALLEL, MAX_PER_DAEMON, Connections

A, B, C = (f"http://{name}.example:4151/stats" for name in "abc")


@contextlib.asynccontextmanager
async def connections(parallel: int = 64) -> AsyncIterator[Connections]:
    made = Connections(AdminOptions(), parallel)
    try:
        yield made
    finally:
        await made.aclose()


async def asked(given: Connections, url: str) -> httpx.AsyncClient:
    async with given.client(url, keep=True) as client:
        return client


async def served_at_once(given: Connections, urls: Iterable[str]) -> list[str]:
    """Those who got a client while nobody gave one back; one comes after the other."""
    served = []

    async def hold(url: str) -> None:
        async with given.client(url, keep=True):
            served.append(url)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(hold, url)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return served


class TestPlaces:
    async def test_one_daemon_has_some_and_the_others_have_theirs(self) -> None:
        async with connections() as given:
            served = await served_at_once(given, [A] * (MAX_PER_DAEMON + 5) + [B])
        assert (served.count(A), served.count(B)) == (MAX_PER_DAEMON, 1)

    async def test_there_is_an_end_of_them_for_all_together(self) -> None:
        async with connections(parallel=5) as given:
            assert len(await served_at_once(given, [A, A, A, B, B, B, C])) == 5

    async def test_whoever_waits_for_a_daemon_s_own_takes_none_of_all(self) -> None:
        async with connections(parallel=MAX_PER_DAEMON + 1) as given:
            assert B in await served_at_once(given, [A] * (MAX_PER_DAEMON + 5) + [B])

    async def test_they_are_given_back_when_somebody_stops_to_wait(self) -> None:
        async with connections(parallel=2) as given:
            for _ in range(3):
                assert len(await served_at_once(given, [A, A, B])) == 2

    @pytest.mark.parametrize(
        ("descriptors", "parallel"),
        [(1024, 512), (1 << 20, MAX_PARALLEL), (resource.RLIM_INFINITY, MAX_PARALLEL)],
    )
    def test_descriptors_are_left_for_browsers(
        self, descriptors: int, parallel: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
        assert Connections(AdminOptions()).parallel == parallel


class TestKeeping:
    async def test_a_daemon_has_one_client_for_its_questions(self) -> None:
        async with connections() as given:
            first = await asked(given, A)
            assert await asked(given, A) is first
            assert await asked(given, B) is not first

    async def test_a_change_has_a_client_of_its_own_which_is_closed_after_it(self) -> None:
        async with connections() as given:
            kept = await asked(given, A)
            async with given.client(A, keep=False) as client:
                assert client is not kept
            assert client.is_closed
            assert not kept.is_closed

    async def test_who_was_not_asked_for_a_minute_is_forgotten(self, mock_clock: MockClock) -> None:
        async with connections() as given:
            gone, still = await asked(given, A), await asked(given, B)
            mock_clock.jump(40.0)
            await asked(given, B)
            mock_clock.jump(30.0)
            await asked(given, C)
            assert gone.is_closed
            assert not still.is_closed
            assert await asked(given, A) is not gone

    async def test_who_is_being_asked_is_not(self, mock_clock: MockClock) -> None:
        async with connections() as given, trio.open_nursery() as nursery, given.client(A, keep=True) as used:
            mock_clock.jump(100.0)
            nursery.start_soon(asked, given, B)
            await wait_all_tasks_blocked()
            assert not used.is_closed

    async def test_of_too_many_the_one_that_was_not_asked_for_longest_is(self) -> None:
        async with connections(parallel=8) as given:
            first, second = await asked(given, A), await asked(given, B)
            await asked(given, A)
            await asked(given, C)
            assert second.is_closed
            assert not first.is_closed

    async def test_in_the_end_all_are_closed(self) -> None:
        async with connections() as given:
            kept = [await asked(given, url) for url in (A, B, C)]
        assert all(client.is_closed for client in kept)
