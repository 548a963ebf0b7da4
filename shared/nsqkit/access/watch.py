"""Reading the file of tokens again while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from nsqkit.access.control import Access
from nsqkit.access.token_file import TokenFile

__all__ = ["TokenWatch"]

INTERVAL_S: Final = 1.0


def _nobody() -> None:
    """There are no connections to end."""


@attrs.define(eq=False)
class TokenWatch:
    """Looks at the file every second, and at once after `hang_up`.

    `on_change` is called when tokens have changed or expired: whoever uses one that is not valid any more has to end.
    """

    access: Access
    on_change: Callable[[], object] = _nobody
    _hang_up: trio.Event = attrs.field(factory=trio.Event, init=False)

    def hang_up(self) -> None:
        """Read the file again, also if it seems to be unchanged: what SIGHUP asks for."""
        self._hang_up.set()

    async def run(self) -> None:
        """Watch until cancelled. Returns at once where there is no file."""
        if self.access.file is None:
            return
        self.access.plan_expiry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_file, self.access.file)
            nursery.start_soon(self._watch_expiry)

    async def _watch_file(self, file: TokenFile) -> None:
        while True:
            with trio.move_on_after(INTERVAL_S):
                await self._hang_up.wait()
                self._hang_up = trio.Event()
                file.forget_version()
            # In a thread: the file may be on another machine, and a disk may hang.
            apply = await trio.to_thread.run_sync(file.look, abandon_on_cancel=True)
            if apply():
                self.access.plan_expiry()
                self.on_change()

    async def _watch_expiry(self) -> None:
        """Apart from the file, as tokens expire also while a disk hangs."""
        while True:
            await trio.sleep(INTERVAL_S)
            if self.access.expired_meanwhile():
                self.on_change()
