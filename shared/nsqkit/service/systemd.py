"""Telling systemd how a daemon is: ready, alive, stopping.

A unit with `Type=notify` is started when the daemon says so, not when its process exists; with `WatchdogSec=` it is
killed and started again when the daemon falls silent. Without systemd (no `NOTIFY_SOCKET`) all of this does nothing.

    nursery.start_soon(keep_informed, stopping, "TCP 4150, HTTP 4151")

Rules:

- Nothing here may harm the daemon: what cannot be sent is logged once and left.
- A datagram holds whole lines, `READY=1` and such, and is sent without waiting for long: a service manager that does
  not read must not stop a broker.
- The sign of life comes from the daemon's own event loop, at half of the time that systemd allows: a loop that hangs is
  what the watchdog is there to find. So it is a task, never a thread.

`WATCHDOG_PID` names the process that systemd watches: a child that has inherited the environment stays silent.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from nsqkit.logging import get_logger

__all__ = ["ServiceManager", "keep_informed"]

log = get_logger(__name__)

SEND_SECONDS: Final = 1.0
MICROSECONDS: Final = 1_000_000
LONGEST_STATUS: Final = 1000
"""Characters: a line for `systemctl status`, and far below what a datagram may hold."""


@attrs.define(eq=False)
class ServiceManager:
    """The way to systemd. `address` is that of its socket, None where there is none."""

    address: str | None = None
    watchdog_seconds: float | None = None
    """How long it waits for a sign of life; None: it does not watch."""
    _complained: bool = attrs.field(default=False, init=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceManager:
        """What systemd has told this process; values that make no sense count as not given."""
        path = environment.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return cls()
        address = f"\0{path[1:]}" if path.startswith("@") else path
        return cls(address, _watchdog_seconds(environment))

    async def tell(self, *lines: str) -> None:
        """Send these lines as one datagram. Never raises, waits for a second at most."""
        if self.address is None:
            return
        try:
            with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, trio.fail_after(SEND_SECONDS):
                # Connected: only then does waiting for room wait for the other end, and not spin.
                await sock.connect(self.address)
                await sock.send("\n".join(lines).encode())
        except (OSError, trio.TooSlowError) as error:
            if not self._complained:
                log.warning("systemd: cannot be told %s - %s", lines[0], str(error) or "it does not read")
            self._complained = True


async def keep_informed(
    stopping: trio.Event, serving: str = "", manager: ServiceManager | None = None
) -> None:
    """Say that the daemon is ready, and from then on that it lives; that it stops, once `stopping` is set.

    Start it as a task when the daemon serves, and cancel it at the end. `serving` is what `systemctl status` shows
    meanwhile. It returns at once where there is no systemd; `manager` is for tests.
    """
    manager = manager or ServiceManager.from_environment()
    if manager.address is None:
        return
    await manager.tell("READY=1", _status(f"serving {serving}".rstrip()))
    await _sign_of_life_until(stopping, manager)
    await manager.tell("STOPPING=1", _status("stopping"))


async def _sign_of_life_until(stopping: trio.Event, manager: ServiceManager) -> None:
    if manager.watchdog_seconds is None:
        await stopping.wait()
        return
    while not stopping.is_set():
        await manager.tell("WATCHDOG=1")
        with trio.move_on_after(manager.watchdog_seconds / 2):
            await stopping.wait()


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:LONGEST_STATUS]}"


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    pid = environment.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
        if microseconds > 0:
            return microseconds / MICROSECONDS
    return None
