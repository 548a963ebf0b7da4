"""Files are looked at every second, and at once on demand; a look that changed something is told."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio
import trio.testing

from nsqkit.file_watch import INTERVAL_S, FileWatch


@attrs.define
class Counted:
    """Files that change when the test says so."""

    changed: bool = False
    looks: int = 0
    forgotten: int = 0

    def look(self) -> Callable[[], bool]:
        self.looks += 1
        changed = self.changed
        return lambda: changed

    def forget_version(self) -> None:
        self.forgotten += 1


async def test_only_changes_are_told(autojump_clock: trio.testing.MockClock) -> None:
    files, told = Counted(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FileWatch(files, told.set).run)
        while files.looks < 3:  # noqa: ASYNC110
            await trio.sleep(INTERVAL_S)
        assert trio.current_time() >= 3 * INTERVAL_S
        assert (files.forgotten, told.is_set()) == (0, False)
        files.changed = True
        await told.wait()
        nursery.cancel_scope.cancel()


async def test_a_hang_up_is_a_look_at_once(mock_clock: trio.testing.MockClock) -> None:
    files, told = Counted(changed=True), trio.Event()
    watch = FileWatch(files, told.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.testing.wait_all_tasks_blocked()
        watch.hang_up()  # the clock stands still
        await told.wait()
        assert (files.looks, files.forgotten) == (1, 1)
        nursery.cancel_scope.cancel()
