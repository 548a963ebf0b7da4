"""The file of tokens is looked at every second, and at once on demand."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from nsqkit.access import Access
from nsqkit.access.token_file import remove
from nsqkit.access.watch import TokenWatch
from nsqkit.file_watch import INTERVAL_S
from tests.nsqkit.access.credentials import NOW, make_credentials
from tests.timing import patience


async def test_a_change_is_told_within_a_second(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    access = make_credentials(tmp_path).access
    assert access.file is not None
    told = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(TokenWatch(access, told.set).run)
        await trio.testing.wait_all_tasks_blocked()
        remove(access.file.path, "reader")
        assert not told.is_set()
        mock_clock.jump(INTERVAL_S)
        mock_clock.rate = 1.0
        with trio.fail_after(patience(5)):
            await told.wait()
        assert "reader" not in access.tokens.by_name
        nursery.cancel_scope.cancel()


async def test_a_file_is_read_at_once_after_a_hang_up(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    access = make_credentials(tmp_path).access
    told = trio.Event()
    watch = TokenWatch(access, told.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        watch.hang_up()  # the clock stands still
        await told.wait()
        nursery.cancel_scope.cancel()


async def test_an_expiry_is_told_once_within_a_second(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    access = make_credentials(tmp_path).access
    access.clock = lambda: NOW - 100 + trio.current_time()
    told: list[float] = []
    expired = trio.Event()

    def tell() -> None:
        told.append(access.clock())
        expired.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(TokenWatch(access, tell).run)
        mock_clock.rate = 100
        await expired.wait()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert told[0] >= NOW
    assert len(told) == 1


async def test_without_a_file_there_is_nothing_to_watch() -> None:
    await TokenWatch(Access()).run()
