"""Files that are read again while a daemon runs: every second if they have changed, and at once on demand (SIGHUP)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
import trio

__all__ = ["INTERVAL_S", "FileWatch", "Watched"]

INTERVAL_S: Final = 1.0


class Watched(Protocol):
    """What is made of files: tokens, a TLS context."""

    def look(self) -> Callable[[], bool]:
        """Look at the files. Runs in a thread, and changes nothing: what it returns does, and says whether it did."""

    def forget_version(self) -> None:
        """Have the files read again, also if they seem to be the same."""


def _nobody() -> None:
    """Nobody wants to know."""


@attrs.define(eq=False)
class FileWatch:
    """Looks at files until cancelled. `on_change` is called when something has changed, on the event loop."""

    watched: Watched
    on_change: Callable[[], object] = _nobody
    _hang_up: trio.Event = attrs.field(factory=trio.Event, init=False)

    def hang_up(self) -> None:
        """Read the files again, also if they seem to be unchanged: what SIGHUP asks for."""
        self._hang_up.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with trio.move_on_after(INTERVAL_S):
                await self._hang_up.wait()
                self._hang_up = trio.Event()
                self.watched.forget_version()
            # In a thread: a file may be on another machine, and a disk may hang.
            apply = await trio.to_thread.run_sync(self.watched.look, abandon_on_cancel=True)
            if apply():
                self.on_change()
