"""Tokens that change, or expire, while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from nsqkit.access.control import Access
from nsqkit.file_watch import FileWatch

__all__ = ["TokenWatch"]

_INTERVAL_S: Final = 1.0
"""Between two looks at the clock."""


def _nobody() -> None:
    """There are no connections to end."""


@attrs.define(eq=False)
class TokenWatch:
    """Looks at the file and at the clock every second, and at the file at once after `hang_up`.

    `on_change` is called when tokens have changed or expired: whoever uses one that is not valid any more has to end.
    """

    access: Access
    on_change: Callable[[], object] = _nobody
    _file: FileWatch | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        file = self.access.file
        self._file = FileWatch(file, self._file_changed) if file is not None else None

    def hang_up(self) -> None:
        """Read the file again, also if it seems to be unchanged: what SIGHUP asks for."""
        if self._file is not None:
            self._file.hang_up()

    async def run(self) -> None:
        """Watch until cancelled. Returns at once where there is no file."""
        if self._file is None:
            return
        self.access.plan_expiry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._file.run)
            nursery.start_soon(self._watch_expiry)

    def _file_changed(self) -> None:
        self.access.plan_expiry()
        self.on_change()

    async def _watch_expiry(self) -> None:
        """Apart from the file, as tokens expire also while a disk hangs."""
        while True:
            await trio.sleep(_INTERVAL_S)
            if self.access.expired_meanwhile():
                self.on_change()
