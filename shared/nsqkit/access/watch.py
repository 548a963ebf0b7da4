"""Reading the file of tokens again while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from nsqkit.access.control import Access
from nsqkit.logging import get_logger

__all__ = ["TokenWatch"]

_log = get_logger("nsqkit.access")

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
        file = self.access.file
        if file is None:
            return
        self.access.plan_expiry()
        while True:
            with trio.move_on_after(INTERVAL_S):
                await self._hang_up.wait()
                self._hang_up = trio.Event()
                file.forget_version()
            # In a thread: the file may be on another machine, and a disk may hang.
            apply = await trio.to_thread.run_sync(file.look, abandon_on_cancel=True)
            if apply():
                self.access.plan_expiry()
            elif not self.access.expired_meanwhile():
                continue
            self.on_change()
