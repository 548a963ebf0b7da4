"""The webhook: which alarms were raised and cleared is sent to one URL, in the background.

    {"at": 1790000000, "via": "console-1", "active": 2, "raised": [...], "cleared": [...]}

The elements of the lists are those of `GET /api/alarms`. There is no queue: what is sent is the difference between the
alarms and what the receiver was told last, computed anew for each attempt. So a receiver that was away for long costs
no memory, is never told what is no longer true, and knows everything when it is back; of an alarm that came and went
meanwhile it hears nothing. A request that fails is repeated after a pause, which doubles up to a minute.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from nsqadmin.alarms.alarm import Alarm, alarm_as_json
from nsqadmin.alarms.board import Changes
from nsqadmin.alarms.watch import AlarmWatch
from nsqadmin.upstream import Upstream, UpstreamError
from nsqkit.logging import get_logger
from nsqkit.redact import shown_url

__all__ = ["AlarmWebhook"]

_log = get_logger("nsqadmin.alarms")

_TIMEOUT_S: Final = 30.0
"""For a request, also if those to daemons have no limit."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_MAX_ALARMS: Final = 500
"""In one request: about 200 kB."""


@attrs.define(eq=False)
class AlarmWebhook:
    """Keeps one receiver informed."""

    url: str
    watch: AlarmWatch
    upstream: Upstream
    base_path: str = ""
    clock: Callable[[], float] = time.time
    """Unix seconds."""
    _told: dict[str, Alarm] = attrs.field(factory=dict, init=False)
    """The alarms that the receiver takes for raised, by id."""

    async def run(self) -> None:
        """Send all changes until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            changes = self._changes()
            if not changes:
                await self.watch.next_change()
            elif await self._send(changes, is_first=pause_s == _FIRST_PAUSE_S):
                pause_s = _FIRST_PAUSE_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _changes(self) -> Changes:
        """What the receiver does not know, as much of it as one request takes."""
        present = {alarm.id: alarm for alarm in self.watch.alarms}
        cleared = (alarm for key, alarm in self._told.items() if key not in present)
        raised = (alarm for key, alarm in present.items() if key not in self._told)
        first_cleared = list(itertools.islice(cleared, _MAX_ALARMS))
        return Changes(list(itertools.islice(raised, _MAX_ALARMS - len(first_cleared))), first_cleared)

    async def _send(self, changes: Changes, *, is_first: bool) -> bool:
        try:
            with trio.fail_after(_TIMEOUT_S):
                await self.upstream.send_json(self.url, self._message(changes))
        except (UpstreamError, trio.TooSlowError) as error:
            if is_first:  # logged once for each outage
                reason = str(error) or f"no answer within {_TIMEOUT_S:g} s"
                _log.warning("ALARM: %s was not told: %s; trying again", shown_url(self.url), reason)
            return False
        for alarm in changes.cleared:
            del self._told[alarm.id]
        self._told.update((alarm.id, alarm) for alarm in changes.raised)
        if not is_first:
            _log.info("ALARM: %s has been told", shown_url(self.url))
        return True

    def _message(self, changes: Changes) -> dict[str, Any]:
        now = self.clock()
        return {
            "at": int(now),
            "via": socket.gethostname(),
            "active": len(self.watch.alarms),
            "raised": [alarm_as_json(alarm, self.base_path, now) for alarm in changes.raised],
            "cleared": [alarm_as_json(alarm, self.base_path, now) for alarm in changes.cleared],
        }
