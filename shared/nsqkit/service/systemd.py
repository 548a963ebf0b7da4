"""Notifying systemd of a daemon's state: ready, alive, stopping.

A unit with `Type=notify` counts as started when the daemon says so, not when its process exists. With `WatchdogSec=`
systemd restarts a daemon that stops sending keep-alives. Without systemd (no `NOTIFY_SOCKET`) nothing is done.

    nursery.start_soon(keep_informed, stopping, "TCP 4150, HTTP 4151")

Rules:

- Failures do not harm the daemon: the first one is logged.
- A datagram holds whole lines, such as `READY=1`. Sending waits for a second at most: a service manager that does not
  read must not stop a broker.
- Keep-alives are sent by a task in the daemon's event loop, at half of the interval that systemd allows. A thread would
  hide a blocked event loop, which is what the watchdog must detect.

`WATCHDOG_PID` is the process that systemd watches; a child that has inherited the environment sends nothing.
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
"""Characters of the line for `systemctl status`, far below the limit of a datagram."""


@attrs.define(eq=False)
class ServiceManager:
    """The connection to systemd. `address`: of its socket, None without systemd."""

    address: str | None = None
    watchdog_seconds: float | None = None
    """Maximum time between two keep-alives; None without a watchdog."""
    _failure_logged: bool = attrs.field(default=False, init=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServiceManager:
        """From the variables that systemd has set; invalid values are ignored."""
        path = environment.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return cls()
        address = f"\0{path[1:]}" if path.startswith("@") else path
        return cls(address, _watchdog_seconds(environment))

    async def notify(self, *lines: str) -> None:
        """Send these lines as one datagram. Never raises, waits for a second at most."""
        if self.address is None:
            return
        try:
            with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, trio.fail_after(SEND_SECONDS):
                # Connected: otherwise waiting for room in the socket spins instead of waiting for the reader.
                await sock.connect(self.address)
                await sock.send("\n".join(lines).encode())
        except (OSError, trio.TooSlowError) as error:
            if not self._failure_logged:
                log.warning(
                    "systemd: notification %s failed - %s", lines[0], str(error) or "not read within a second"
                )
            self._failure_logged = True


async def keep_informed(
    stopping: trio.Event, serving: str = "", manager: ServiceManager | None = None
) -> None:
    """Notify systemd that the daemon is ready, then send keep-alives, and notify it when `stopping` is set.

    To be started as a task when the daemon serves, and cancelled at its end. `serving`: shown by `systemctl status`.
    Returns at once without systemd. `manager` is for tests.
    """
    manager = manager or ServiceManager.from_environment()
    if manager.address is None:
        return
    await manager.notify("READY=1", _status(f"serving {serving}".rstrip()))
    await _sign_of_life_until(stopping, manager)
    await manager.notify("STOPPING=1", _status("stopping"))


async def _sign_of_life_until(stopping: trio.Event, manager: ServiceManager) -> None:
    if manager.watchdog_seconds is None:
        await stopping.wait()
        return
    while not stopping.is_set():
        await manager.notify("WATCHDOG=1")
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
