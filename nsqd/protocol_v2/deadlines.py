"""The times that one session keeps: when a heartbeat is due, and how long its client may be silent or take nothing.

All of them share one entry in the broker's timers, which is set to the earliest. A command or a send only moves a
number here; the entry is corrected when it fires. So a busy connection costs one heap operation a heartbeat, not one a
command.

- A heartbeat is sent every interval, on a busy connection too.
- A whole command must arrive within two intervals. A part of one is no sign of life.
- The socket must take something within one interval while bytes wait for it. Any part is progress.

Without heartbeats (an interval of 0) a client may be silent for ever, but it may not keep our memory in use: a command
that it has begun must be complete within `UNFINISHED_TIMEOUT`, and the socket must take something in the same time.

`command_by` also bounds what does not depend on heartbeats: the time until the magic has arrived, and until the last
answers of a closing connection have been taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from nsqd.broker.timers import Timers
from nsqd.protocol_v2.identify import DEFAULT_HEARTBEAT_MS

__all__ = ["DEFAULT_HEARTBEAT", "UNFINISHED_TIMEOUT", "Deadlines"]

DEFAULT_HEARTBEAT: Final = DEFAULT_HEARTBEAT_MS / 1000  # seconds, of a client that has not said anything else
UNFINISHED_TIMEOUT: Final = 2 * DEFAULT_HEARTBEAT  # seconds, of a client without heartbeats


@attrs.define(eq=False)
class Deadlines:
    """Times in seconds of the broker's clock, `math.inf` for never. `on_alarm`: one of them may have come."""

    _timers: Timers
    _on_alarm: Callable[[float], None]
    next_heartbeat: float
    command_by: float
    """When the next whole command must have arrived."""
    heartbeat: float = DEFAULT_HEARTBEAT
    """The interval; 0: no heartbeats."""
    blocked_since: float = math.inf
    """Since when the socket has taken nothing of what waits for it."""
    alarm_at: float = math.inf

    def start(self, heartbeat: float, now: float) -> None:
        """A new interval begins."""
        self.heartbeat = heartbeat
        self.next_heartbeat = now + heartbeat if heartbeat else math.inf
        self.command_by = now + 2 * heartbeat if heartbeat else math.inf
        self.set_alarm()  # an earlier alarm of the old interval stays: it will find nothing due

    @property
    def command_time(self) -> float:
        """Seconds that a command may take to arrive."""
        return 2 * self.heartbeat or UNFINISHED_TIMEOUT

    @property
    def write_time(self) -> float:
        """Seconds within which the socket must take something."""
        return self.heartbeat or UNFINISHED_TIMEOUT

    def command_begun(self, now: float) -> None:
        """A part of a command has arrived. With heartbeats its time is running already."""
        if self.command_by == math.inf:
            self.command_by = now + UNFINISHED_TIMEOUT
            self.set_alarm()

    def nothing_begun(self) -> None:
        """What has arrived is complete. With heartbeats only a whole command is a sign of life."""
        if not self.heartbeat:
            self.command_by = math.inf

    def close_by(self, when: float) -> None:
        """No more commands are awaited; the rest must be over by then."""
        self.command_by = min(self.command_by, when)
        self.set_alarm()

    def blocked(self, now: float) -> None:
        """The socket has taken a part and is full."""
        self.blocked_since = now
        self.set_alarm()

    def heartbeat_due(self, now: float) -> bool:
        """Whether to send one; the next is due an interval later."""
        if now < self.next_heartbeat:
            return False
        self.next_heartbeat = now + self.heartbeat  # from now, not from when it was due: none is made up for
        return True

    def write_stalled(self, now: float) -> bool:
        return now >= self.blocked_since + self.write_time

    def set_alarm(self) -> None:
        when = min(self.next_heartbeat, self.command_by, self.blocked_since + self.write_time)
        if when < math.inf:
            self._timers.set(self, when)

    def alarm(self, now: float) -> None:
        self._on_alarm(now)

    def cancel(self) -> None:
        self._timers.cancel(self)
