"""Looks at each snapshot of the cluster, and keeps and logs the alarms."""

from __future__ import annotations

import attrs
import trio

from nsqadmin.alarms.alarm import Alarm
from nsqadmin.alarms.board import AlarmBoard, Changes
from nsqadmin.alarms.memory import Memory
from nsqadmin.alarms.rules import Situation, channel_alarms, cluster_alarms, node_alarms, topic_alarms
from nsqadmin.cluster.poller import ClusterPoller
from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.yielder import Yielder

__all__ = ["AlarmWatch"]

_log = get_logger("nsqadmin.alarms")

_MAX_LINES = 20
"""In the log, for each snapshot: a lost network can raise thousands of alarms."""


@attrs.define(eq=False)
class AlarmWatch:
    """The alarms of the cluster that the poller polls."""

    poller: ClusterPoller
    _board: AlarmBoard = attrs.field(init=False)
    _memory: Memory = attrs.field(init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        options = self.poller.options
        self._board = AlarmBoard(options)
        self._memory = Memory(options.alarm_remember / SECOND)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Those that are raised, the worst first."""
        return self._board.alarms

    async def next_change(self) -> None:
        """Wait until an alarm is raised or cleared."""
        await self._changed.wait()

    async def run(self) -> None:
        """Look at each snapshot until cancelled."""
        while True:
            snapshot = await self.poller.next_snapshot()
            try:
                await self.examine(snapshot)
            except Exception:
                # The console must continue with the next snapshot, whatever a response contained.
                _log.exception(
                    "ALARM: a snapshot could not be examined, the alarms are those of the one before"
                )

    async def examine(self, snapshot: ClusterSnapshot) -> None:
        """Look at one snapshot; each must be newer than the one before."""
        changes = self._board.update(await self._find(snapshot), trio.current_time())
        if changes:
            _log_changes(changes, snapshot.at)
            self._changed.set()
            self._changed = trio.Event()

    async def _find(self, snapshot: ClusterSnapshot) -> list[Alarm]:
        yielder = Yielder()
        self._memory.note(snapshot)
        situation = Situation(snapshot, self.poller.history, self._memory, self.poller.options)
        found = list(cluster_alarms(situation))
        for node in snapshot.nodes.values():
            found += node_alarms(situation, node)
            await yielder.maybe_yield()
        for topic in snapshot.topics.values():
            found += topic_alarms(situation, topic)
            for channel in topic.channels.values():
                self._memory.note_channel(channel)
                found += channel_alarms(situation, topic, channel)
                await yielder.maybe_yield()
            await yielder.maybe_yield()
        return found


def _log_changes(changes: Changes, now: float) -> None:
    for alarm in changes.raised[:_MAX_LINES]:
        _log.warning("ALARM: %s: %s: %s; %s", alarm.subject.text, alarm.kind.title, alarm.text, alarm.advice)
    for alarm in changes.cleared[:_MAX_LINES]:
        _log.info("ALARM: %s: %s: over after %s", alarm.subject.text, alarm.kind.title, alarm.duration(now))
    more = [max(0, len(each) - _MAX_LINES) for each in (changes.raised, changes.cleared)]
    if any(more):
        _log.warning("ALARM: %d more raised and %d more over; see /alarms", *more)
