"""The broker: all topics, one clock, and the rhythm of a round.

A *round* is what the daemon does between two looks at the network:

    advance(now, wall)    the clock of everything that happens in the round
    ... any calls ...     publish, finish, requeue, subscribe, create, delete
    commit()              one append for each topic that has something to write
    pump()                messages go to the outboxes of those who have room

Nothing here waits, and nothing knows of sockets. What may have to wait for a disk is a `Job` in `store.jobs`; when one
has ended, the daemon goes through `advance`, the job's `done`, `commit` and `pump` as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext, BrokerOptions, Pumping
from nsqd.broker.ephemeral_topic import EphemeralTopic
from nsqd.broker.errors import NotFound, Refused
from nsqd.broker.log_topic import LogTopic
from nsqd.broker.topic import Topic
from nsqd.log.store import Store
from nsqkit.logging import get_logger
from nsqkit.wire.names import is_ephemeral

__all__ = ["Broker", "Listener"]

log = get_logger("broker")

HOUSEKEEPING_EVERY = 1.0  # seconds
SYNC_PACE = (
    0.1  # seconds between syncs that nobody waits for: one after the other would cost a fifth of the CPU
)


class Listener:
    """Who wants to know what comes and goes (the connections to the registries). Does nothing by itself."""

    def topic_created(self, topic: Topic) -> None: ...
    def topic_deleted(self, topic: Topic) -> None: ...
    def channel_created(self, topic: Topic, channel: Channel) -> None: ...
    def channel_deleted(self, topic: Topic, channel: Channel) -> None: ...


class Broker(BrokerContext):
    """Topics by name. Not thread-safe: everything is called from one thread."""

    def __init__(self, store: Store, options: BrokerOptions, now: float, wall_ns: int) -> None:
        super().__init__(store, options, now, wall_ns)
        self.topics: dict[str, Topic] = {}
        self.topics_by_wire_name: dict[bytes, Topic] = {}  # the same, for those who have only bytes in hand
        self.listener = Listener()
        self.lookup_first: Callable[[Topic], bool] = lambda _: False  # True: a new topic waits for `start`
        self._last_sync = now
        self.alarm_at = math.inf
        for name, recovered in store.topics(wall_ns):
            topic = LogTopic.restore(self, name, recovered, wall_ns)
            self._add(topic)
            self.schedule_maintenance(topic.retention)
        self.timers.set(self, now + HOUSEKEEPING_EVERY)

    # --- topics

    def topic(self, name: str) -> Topic:
        """The topic of this (valid) name, made when it is not there. `Refused` when the disk says no."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self._make_topic(name)
            self._add(topic)
            topic.started = not self.lookup_first(topic)
            self.listener.topic_created(topic)
        return topic

    def _add(self, topic: Topic) -> None:
        self.topics[topic.name] = topic
        self.topics_by_wire_name[topic.name.encode()] = topic

    def _make_topic(self, name: str) -> Topic:
        if is_ephemeral(name):
            return EphemeralTopic(self, name)
        self.refuse_when_full()
        try:
            return LogTopic(self, name, self.store.create_topic(name, self.wall_ns))
        except OSError as error:
            self.note_write_error(name, error)
            raise Refused(error.strerror or str(error)) from error

    def existing(self, name: str) -> Topic:
        """`NotFound` when there is no such topic."""
        try:
            return self.topics[name]
        except KeyError:
            raise NotFound(name) from None

    def delete_topic(self, name: str) -> None:
        """`NotFound`; `Refused` when the disk says no."""
        topic = self.existing(name)
        topic.commit()
        if isinstance(topic, LogTopic):
            try:
                self.store.delete_topic(topic.log)
            except OSError as error:
                raise Refused(error.strerror or str(error)) from error
            topic.window.close()
        else:
            topic.empty()
        del self.topics[name]
        del self.topics_by_wire_name[name.encode()]
        self._to_commit.pop(topic, None)
        for channel in list(topic.channels.values()):
            channel.disconnect_all()
            channel.close()
        topic.channels.clear()  # their clients have yet to leave
        self.listener.topic_deleted(topic)

    def channel_created(self, topic_name: str, channel: Pumping) -> None:
        assert isinstance(channel, Channel)
        self.listener.channel_created(self.topics[topic_name], channel)

    def channel_deleted(self, topic_name: str, channel: Pumping) -> None:
        assert isinstance(channel, Channel)
        topic = self.topics[topic_name]
        self.listener.channel_deleted(topic, channel)
        if is_ephemeral(topic_name) and not topic.channels:
            self.delete_topic(topic_name)

    # --- a round

    def advance(self, now: float, wall_ns: int) -> None:
        """A round begins."""
        self.now, self.wall_ns = now, wall_ns

    def commit(self) -> None:
        """Write what the round has gathered. Topics whose append failed are in `failures`, see `Topic.failed`."""
        while self._to_commit:
            self._to_commit.popitem()[0].commit()
        if self._sync_due and self.now - self._last_sync >= SYNC_PACE:
            self.want_sync()

    def end_of_failures(self) -> None:
        """Everybody concerned has looked at `failures`."""
        for topic in self.failures:
            topic.failed.clear()
        self.failures.clear()

    def pump(self) -> bool:
        """Hand out messages. True when there is more to hand out at once."""
        to_pump, self._to_pump = self._to_pump, {}
        for channel in to_pump:
            channel.pump()
        return bool(self._to_pump)

    @property
    def has_work(self) -> bool:
        """Whether a round would do something, without anything new having happened."""
        return bool(self._to_commit or self._to_pump)

    @property
    def sync_ticket(self) -> int:
        """What `synced` must reach for everything that was committed so far to be on the disk; 0 at level `os`."""
        return self.store.syncer.written if self.options.sync_on_commit else 0

    def want_sync(self) -> None:
        """Somebody waits for `sync_ticket`. Finishes alone make nobody wait, and are synced by time."""
        self._sync_due = False
        self._last_sync = self.now
        self.store.syncer.want(self.store.syncer.written)

    @property
    def synced(self) -> int:
        return self.store.syncer.synced

    # --- time

    def fire_timers(self) -> None:
        self.timers.fire(self.now)

    def alarm(self, now: float) -> None:
        """Once a second."""
        self.timers.set(self, now + HOUSEKEEPING_EVERY)
        was_full = self.store.full
        self.store.check_space()
        if was_full and not self.store.full:
            log.info("disk: there is room again, publishing goes on")
        busy, self._busy = self._busy, {}
        for retention in busy:
            if retention.maintain():
                self._busy[retention] = None
        self._sync_by_time(now)

    def _sync_by_time(self, now: float) -> None:
        """Level `os`: what few messages have changed is synced by time, behind everybody's back."""
        syncer = self.store.syncer
        due = now - self._last_sync >= self.options.sync_timeout
        if syncer.written > syncer.synced and due:
            self._last_sync = now
            syncer.want(syncer.written)

    def step_snapshots(self) -> bool:
        """Write one slice of one snapshot. True when there are more to write."""
        if self.snapshots and self.snapshots[0].step_snapshot():
            self.snapshots.popleft()
        return bool(self.snapshots)

    # --- the end

    def close(self) -> None:
        """An orderly stop: everything is written and synced. `OSError` when the disk refuses: then it was not."""
        self.store.full = None  # nothing is published any more: what room there is is for this
        failure: OSError | None = None
        for topic in self.topics.values():
            if isinstance(topic, LogTopic):
                try:
                    topic.close()
                except OSError as error:
                    failure = error
        if failure is not None:
            self.store.syncer.sync_now()
            raise failure
        self.store.close()
