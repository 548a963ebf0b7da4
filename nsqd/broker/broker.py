"""The broker: all topics, one clock, one entry point for publishing, and the steps of a round.

A *round* is what the daemon does between two polls of the network:

    advance(now, wall)    set the clock for everything that happens in the round
    ... any calls ...     publish, finish, requeue, subscribe, create, delete
    commit()              one append for each topic that has something to write
    pump()                messages go to the outboxes of consumers that have room

Nothing here waits, and nothing knows of sockets. Work that may have to wait for a disk is a `Job` in `jobs`; the
completion of a job is a round too: `advance`, the job's `done`, `commit`, `pump`.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext, BrokerOptions
from nsqd.broker.dead_letters import DeadLetters
from nsqd.broker.errors import NotFound, Refused
from nsqd.broker.limits import TopicLimits
from nsqd.broker.log_view import LogView
from nsqd.broker.redrive import Redrives
from nsqd.broker.restore import restore_topic
from nsqd.broker.retention import Retention
from nsqd.broker.subscription import Subscription
from nsqd.broker.topic import Topic
from nsqd.broker.topic_store import LogTopicStore, MemoryTopicStore
from nsqd.log.finished import read_finished
from nsqd.log.ranges import RangeSet
from nsqd.log.store import Store
from nsqkit.logging import RateLimitedLogger, get_logger
from nsqkit.wire.frames import BODY, HEAD, MESSAGE, message_frame
from nsqkit.wire.names import is_ephemeral

__all__ = ["Broker", "Listener", "Republished"]

log = get_logger("broker")

MAINTENANCE_INTERVAL = 1.0  # seconds
# The wall clock was set if it has moved against the monotonic one by this. More than a second of slewing, in many
# minutes, is taken for it too, and does no harm.
CLOCK_STEP_NS = 1_000_000_000
# Seconds after the start in which a clock that was wrong at boot is expected to be set, and seconds between two steps.
CLOCK_SETTLES = 600.0
CLOCK_STEP_INTERVAL = 1.0
# Messages that are only kept for replays go when there is no room for so many segments more, so that they go before
# anything is refused.
SPARE_SEGMENTS = 2
# Seconds between syncs that no client waits for. Back to back, syncs would cost a fifth of the CPU.
SYNC_INTERVAL = 0.1


class Republished(NamedTuple):
    """A complete frame. `delay_ns`: from its timestamp on. `origin`: of a dead letter. `generation`: of the only
    channel that gets it.
    """

    frame: bytes
    delay_ns: int = 0
    origin: bytes | None = None
    generation: int | None = None


class Listener:
    """Notified of every topic and channel that is created or deleted, and of every publish to a topic and every
    subscription that has to wait for the topic's start. By default it does nothing."""

    def topic_created(self, topic: Topic) -> None: ...
    def topic_deleted(self, topic: Topic) -> None: ...
    def channel_created(self, topic: Topic, channel: Channel) -> None: ...
    def channel_deleted(self, topic: Topic, channel: Channel) -> None: ...
    def topic_awaited(self, topic: Topic) -> None: ...


class Broker:
    """Topics by name. Not thread-safe: everything is called on one thread.

    `jobs`: work that may wait for the disk, to be run in threads. `failures`: not empty when a commit of this round has
    failed; each publisher looks at `Topic.failed`.
    """

    def __init__(self, store: Store, options: BrokerOptions, now: float, wall_ns: int) -> None:
        self.store = store
        self.options = options
        self.context = BrokerContext(store, options, now, wall_ns)
        # Plain attributes, not properties: the end of a round looks at each of them.
        self.timers = self.context.timers
        self.failures = self.context.failures
        self.jobs = store.jobs
        self.topics: dict[str, Topic] = {}
        self.topics_by_wire_name: dict[bytes, Topic] = {}  # the same, for sessions: they have bytes
        self.retentions: dict[str, Retention] = {}  # of topics on disk, by name
        self.listener = Listener()
        # Whether a new topic waits for `Topic.start`.
        self.lookup_first: Callable[[Topic], bool] = lambda _: False
        self._to_trim: list[TopicLimits] = []  # of topics that were committed in this round
        self._last_sync = now
        self._clock_offset_ns = wall_ns - now * 1e9
        self._next_clock_step = now
        self._clock_settles_at = now + CLOCK_SETTLES
        self._reported_failing: set[str] = set()
        self._disk_log = RateLimitedLogger(log)
        self.copies_missing: str | None = None  # publishes are acknowledged with fewer copies than asked for
        self._fenced = False
        self.dead_letters = DeadLetters(self.context, self.topic)
        self.redrives = Redrives(self.context, self.topics, lambda: self.dead_letters.safe())
        self.alarm_at = math.inf
        self._lost: defaultdict[str, list[tuple[int, int]]] = defaultdict(
            list
        )  # found by the recovery, by topic
        for name, recovered in store.topics(wall_ns):
            self._lost[name] = [(damage.first, damage.end) for damage in recovered.damage]
            topic, view = restore_topic(self.context, self, name, recovered)
            self._add(topic, view, recovered.manifest_position)
            # So that the next start does not scan the damaged part again.
            if recovered.damage or recovered.adopted:
                self.retentions[name].want_snapshot()
            self.context.schedule_maintenance(name)
        if self.context.clock_behind > 1:
            log.warning(
                "clock: wall time is at least %.0f s behind that of the last run; deferred messages wait for their "
                "own delay at most",
                self.context.clock_behind,
            )
        if self.topics:  # else nothing could match
            for rule in options.rules.unmatched({name: t.channels for name, t in self.topics.items()}):
                log.warning(
                    "%s: matches none of the %d topics here (topic %s, channel %s); is it misspelt?",
                    rule,
                    len(self.topics),
                    rule.topic,
                    rule.channel,
                )
        self.context.timers.set(self, now + MAINTENANCE_INTERVAL)
        self.redrives.resume()

    # --- for the daemon

    @property
    def now(self) -> float:
        """Seconds of a monotonic clock."""
        return self.context.now

    @property
    def wall_ns(self) -> int:
        """Wall time, nanoseconds since 1970."""
        return self.context.wall_ns

    @property
    def fatal(self) -> OSError | None:
        """A sync that failed: the daemon must stop."""
        return self.store.fatal

    @property
    def failing_topics(self) -> int:
        """How many topics are refused, as their files cannot be used."""
        return len(self.store.failing)

    @property
    def disk_free(self) -> int | None:
        """Bytes of free space for the data path, as of a second ago at most; None: not known."""
        return self.store.space.free

    @property
    def health(self) -> str:
        """`OK`; `NOK - ` and the reason; `OK - ` and the reason if it concerns some topics only."""
        health = self.store.health
        if health != "OK":
            return health
        if reason := self.context.refusal_for("fence") or self.context.refusal_for("copies"):
            return f"NOK - {reason}"
        return f"OK - {self.copies_missing}" if self.copies_missing else "OK"

    # --- topics

    def topic(self, name: str) -> Topic:
        """The topic with this (valid) name, created if it does not exist. `Refused` when it cannot be written."""
        topic = self.topics.get(name)
        if topic is None:
            if reason := self.store.failing.get(name):  # it is on the disk, and could not be read
                raise Refused(reason)
            topic = self._make_topic(name)
            topic.started = not self.lookup_first(topic)
            self.listener.topic_created(topic)
        return topic

    def _make_topic(self, name: str) -> Topic:
        if is_ephemeral(name):
            return self._add(Topic(self.context, self, name, MemoryTopicStore(self.context)), None)
        self.context.refuse_when_full()
        try:
            topic_log = self.store.create_topic(name, self.context.wall_ns)
        except OSError as error:
            self.context.report_write_error(name, error, exists=False)
            raise Refused(error.strerror or str(error)) from error
        view = LogView(self.context, name, topic_log)
        return self._add(Topic(self.context, self, name, LogTopicStore(view)), view)

    def _add(self, topic: Topic, view: LogView | None, manifest_position: int | None = None) -> Topic:
        self.topics[topic.name] = topic
        self.topics_by_wire_name[topic.name.encode()] = topic
        if view is not None:
            self.retentions[topic.name] = Retention(self.context, topic, view, manifest_position)
        return topic

    def existing(self, name: str) -> Topic:
        """The topic with this name; `NotFound` if it does not exist."""
        try:
            return self.topics[name]
        except KeyError:
            raise NotFound(name) from None

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its files. `NotFound`; `Refused` when the files cannot be moved to the trash."""
        topic = self.existing(name)
        topic.commit()  # publishers of this round get their OK
        if name in self.retentions:
            # The files first: if that fails, nothing has changed.
            try:
                self.store.delete_topic(self.retentions[name].log)
            except OSError as error:
                raise Refused(error.strerror or str(error)) from error
            del self.retentions[name]
        for channel in topic.channels.values():
            self.redrives.forget(channel)
        del self.topics[name]
        del self.topics_by_wire_name[name.encode()]
        self.context.to_commit.pop(name, None)
        self.context.to_maintain.pop(name, None)
        self.context.to_maintain_now.pop(name, None)
        topic.delete()
        self.listener.topic_deleted(topic)

    def channel_created(self, topic: Topic, channel: Channel) -> None:
        self._channels_changed(topic, channel, channel.backlog.needed_from)
        self.listener.channel_created(topic, channel)

    def channel_sought(self, topic: Topic, channel: Channel) -> None:
        self._channels_changed(topic, channel, channel.backlog.needed_from)

    def channel_deleted(self, topic: Topic, channel: Channel) -> None:
        self.redrives.forget(channel)
        self._channels_changed(topic, channel)
        self.listener.channel_deleted(topic, channel)
        if is_ephemeral(topic.name) and not topic.channels:
            self.delete_topic(topic.name)

    def _channels_changed(self, topic: Topic, channel: Channel, needed_from: int | None = None) -> None:
        retention = self.retentions.get(topic.name)
        if retention is not None and not is_ephemeral(channel.name):
            retention.channels_changed(needed_from)

    def topic_awaited(self, topic: Topic) -> None:
        self.listener.topic_awaited(topic)

    def unsubscribe(self, channel: Channel, subscription: Subscription, unsent: set[bytes]) -> None:
        """End the subscription of a closed connection. `unsent`: ids of messages that the socket never accepted.

        An ephemeral channel is deleted with its last client. The channel or its topic may already be deleted.
        """
        channel.detach(subscription, unsent)
        topic = self.topics.get(channel.topic_name)
        if topic is not None:
            topic.delete_if_unused(channel)

    def lost_messages(self, name: str) -> list[tuple[int, int]]:
        """The sequence numbers of a topic that were damaged at the start."""
        return self._lost[name]

    def owned_messages(self) -> dict[int, list[tuple[int, int]]]:
        """By generation of the topic: the sequence numbers of this data path, but for those that it has lost."""
        return {
            retention.log.generation: RangeSet(self._lost[name]).gaps(0, retention.log.end)
            for name, retention in self.retentions.items()
        }

    def number_at(self, generation: int, position: int) -> int:
        """Of the topic with this generation, see `TopicLog`; 0 without such a topic."""
        for retention in self.retentions.values():
            if retention.log.generation == generation:
                return retention.log.number_at(position)
        return 0

    def finished_of(
        self, owned: Mapping[int, Sequence[tuple[int, int]]]
    ) -> Iterator[tuple[int, str, list[tuple[int, int]]]]:
        """What was finished lately of these: (generation of the topic, name of the channel, ranges). `OSError`."""
        for name, retention in self.retentions.items():
            ranges = owned.get(retention.log.generation, ())
            finished = read_finished(retention.log) if ranges else {}
            for channel in self.topics[name].channels.values():
                its = finished.get(channel.backlog.generation, RangeSet())
                if found := [part for start, end in ranges for part in its.common(start, end)]:
                    yield retention.log.generation, channel.name, found

    def hand_over(self, owned: Mapping[int, Sequence[tuple[int, int]]]) -> int:
        """Record that somebody else owns these messages (ranges by generation of the topic), and we do not any more.

        Returns how many there were. What is in memory does not change: the daemon must be started anew. `Refused`.
        """
        return sum(
            self.topics[name].hand_over(owned.get(retention.log.generation, ()))
            for name, retention in self.retentions.items()
        )

    # --- publishing

    def topic_to_publish(self, name: str) -> Topic:
        """As `topic`, but also raises `Refused`, and creates no topic, while nothing may be published."""
        self.context.refuse_publishing()
        return self.topics.get(name) or self.topic(name)

    def publish(self, topic: Topic, bodies: Sequence[bytes], delay_ns: int = 0) -> int:
        """Publish messages with the round's commit, all or none of them; `delay_ns`: deliver them after that delay.

        Returns the commit number, under which `topic.failed` has the reason if the commit fails. `Refused` while
        nothing may be published, `LimitReached` if a limit is. Names and sizes are not validated here.
        """
        first_id = self.reserve_ids(len(bodies))
        wall_ns = self.context.wall_ns
        frames = [
            message_frame(message_id, wall_ns, body) for message_id, body in enumerate(bodies, first_id)
        ]
        size = sum(map(len, frames))
        if topic.guard is not None:
            topic.guard.admit(len(frames), size)
        if delay_ns:
            for frame in frames:
                topic.publish_deferred(frame, delay_ns)
        else:
            topic.publish(frames, size)
        return topic.commit_number

    def publish_one(self, topic: Topic, body: bytes) -> int:
        """As `publish` for one message at once: most publishes are.

        Everything is done in place; with the calls of `publish` a pipelined PUB costs a tenth more.
        """
        context = self.context
        if context.space.full is not None or context.refusal is not None:
            context.refuse_publishing()
        try:
            message_id = b"%016x" % self.store.ids.take(1)
        except OSError as error:
            raise Refused(error.strerror or str(error)) from error
        frame = HEAD.pack(BODY - 4 + len(body), MESSAGE, context.wall_ns, 1, message_id) + body
        if topic.guard is not None:
            topic.guard.admit(1, len(frame))
        topic.publish([frame], len(frame))
        return topic.commit_number

    def reserve_ids(self, count: int) -> int:
        """The first of `count` consecutive message ids. `Refused` while nothing may be published.

        For a caller that builds the frames itself while it parses a batch, and publishes them with `publish_frames`.
        """
        self.context.refuse_publishing()
        try:
            return self.store.ids.take(count)
        except OSError as error:
            raise Refused(error.strerror or str(error)) from error

    def publish_frames(self, topic: Topic, frames: list[bytes], size: int) -> int:
        """As `publish`, for complete frames with ids from `reserve_ids` and this round's time; `size`: their bytes."""
        if topic.guard is not None:
            topic.guard.admit(len(frames), size)
        topic.publish(frames, size)
        return topic.commit_number

    def publish_again(self, topic: Topic, messages: Sequence[Republished]) -> int:
        """As `publish`, of messages with ids of earlier.

        They are accepted also while nothing may be published: somebody was told that they are.
        """
        frames: list[bytes] = []
        for message in messages:
            frame, delay_ns = message.frame, message.delay_ns
            left_ns = HEAD.unpack_from(frame)[2] + delay_ns - self.context.wall_ns if delay_ns else 0
            if message.origin is not None:
                topic.publish_letters([frame], [message.origin])
            elif message.generation is not None and topic.flowing:
                topic.publish_directed([frame], message.generation)
            elif left_ns > 0:
                topic.publish_deferred(frame, left_ns)
            else:
                frames.append(
                    frame
                )  # while the topic is paused, also one for one channel: the others see it again
        if frames:
            topic.publish(frames, sum(map(len, frames)))
        return topic.commit_number

    def refuse_publishing(self, cause: str, reason: str | None) -> None:
        """Refuse publishes for a cause, with this reason; or, with None, no longer for this cause."""
        self.context.refuse(cause, reason)

    def fence(self, reason: str | None) -> None:
        """Deliver nothing, and refuse publishes, for this reason; None: no longer. What is in flight stays so."""
        self.refuse_publishing("fence", reason)
        self._fenced = reason is not None

    # --- a round

    def advance(self, now: float, wall_ns: int) -> None:
        """Begin a round: set the clock."""
        self.context.round += 1
        self.context.now, self.context.wall_ns = now, wall_ns
        # In every round, not once a second: the first round after the clock was set must not deliver by the old time.
        moved_ns = wall_ns - now * 1e9 - self._clock_offset_ns
        if not -CLOCK_STEP_NS < moved_ns < CLOCK_STEP_NS and now >= self._next_clock_step:
            self._wall_clock_moved(moved_ns)

    def _wall_clock_moved(self, moved_ns: float) -> None:
        """Deferred messages from before the start follow the wall clock, and what is recorded follows it for all."""
        self._clock_offset_ns += moved_ns
        self._next_clock_step = self.now + CLOCK_STEP_INTERVAL
        log.warning("clock: wall time was set by %+.1f s", moved_ns / 1e9)
        for topic in self.topics.values():
            for channel in topic.channels.values():
                channel.wall_clock_moved()
                if channel.deferred and topic.name in self.retentions:
                    # The log has due times by the old clock; a snapshot has them by the new one.
                    self.retentions[topic.name].want_snapshot()
                    self.context.schedule_maintenance(topic.name)

    def commit(self) -> None:
        """Write what the round has gathered. `Topic.failed` has the commits whose append failed."""
        moves = self.dead_letters.has_work or self.redrives.has_work
        if moves:
            self.dead_letters.before_commit()
            self.redrives.before_commit()
        to_commit = self.context.to_commit
        while to_commit:
            topic = self.topics.get(to_commit.popitem()[0])
            if topic is not None:  # it may have been deleted since it asked
                topic.commit()
                if topic.limits is not None:
                    self._to_trim.append(topic.limits)
        if moves:
            self.dead_letters.after_commit()
            self.redrives.after_commit()
        if self.context.to_maintain_now:
            to_maintain, self.context.to_maintain_now = self.context.to_maintain_now, {}
            self._maintain(to_maintain)
        due = self.context.sync_due or self.store.writers.crowded
        if due and self.now - self._last_sync >= SYNC_INTERVAL:
            self.want_sync()

    def clear_failures(self) -> None:
        """Clear the failures of this round, once all publishers have their errors."""
        for failed in self.failures:
            failed.clear()
        self.failures.clear()

    def pump(self) -> bool:
        """Deliver messages. True when there is more to deliver at once."""
        if self._fenced:
            self._to_trim.clear()  # somebody else may serve them
            return False
        # Channels that register meanwhile are served by the next round, after a poll of the network.
        to_pump, self.context.to_pump = self.context.to_pump, {}
        for channel in to_pump:
            channel.pump()
        if self._to_trim:
            self._trim()
        return bool(self.context.to_pump)

    def _trim(self) -> None:
        """Drop what is too much, after the appends: what takes the place of the oldest must be in the log; and after
        the deliveries: it is only too much if nobody takes it. It is recorded by the next append."""
        to_trim, self._to_trim = self._to_trim, []
        for limits in to_trim:
            limits.trim()

    @property
    def has_work(self) -> bool:
        """Whether a round would have something to do even without new input."""
        return bool(self.context.to_commit or (self.context.to_pump and not self._fenced))

    # --- syncs

    @property
    def sync_ticket(self) -> int:
        """The value that `synced` reaches once everything committed so far is on the disk; 0 at level `os`."""
        return self.store.syncer.written if self.options.sync_on_commit else 0

    @property
    def synced(self) -> int:
        return self.store.syncer.synced

    @property
    def unsynced_appends(self) -> int:
        """How many appends are not on the disk yet."""
        return self.store.syncer.written - self.store.syncer.synced

    @property
    def sync_count(self) -> int:
        """How many syncs have been done."""
        return self.store.syncer.count

    def want_sync(self) -> None:
        """Request a sync of everything committed so far: a client waits for it, or `sync_every` has been reached."""
        self.context.sync_due = False
        self._last_sync = self.now
        self.store.syncer.want(self.store.syncer.written)

    # --- time

    def fire_timers(self) -> None:
        self.timers.fire(self.now)

    def alarm(self, now: float) -> None:
        """Once a second: check free space, maintain the logs, sync what is older than `sync_timeout`."""
        self.timers.set(self, now + MAINTENANCE_INTERVAL)
        if now >= self._clock_settles_at:
            self._clock_settles_at = math.inf
            for topic in self.topics.values():
                for channel in topic.channels.values():
                    channel.forget_restored()
        self._look_at_failing_topics()
        was_full = self.store.space.full
        self.store.space.check()
        if was_full and not self.store.space.full:
            log.info("disk: free space recovered, publishing resumes")
        if short := self.store.space.short_of(SPARE_SEGMENTS * self.store.options.max_segment_bytes):
            self._give_up_retained(short)
        if not self._fenced:  # else somebody else may serve them
            for limits in list(self.context.limited.values()):
                limits.look(now)
        to_maintain, self.context.to_maintain = self.context.to_maintain, {}
        self._maintain(to_maintain)
        self._sync_by_time(now)

    def _maintain(self, names: Iterable[str]) -> None:
        for name in names:
            retention = self.retentions.get(name)  # None: a job of a topic deleted since has scheduled it
            if retention is not None and retention.maintain():
                self.context.schedule_maintenance(name)

    def _give_up_retained(self, short: int) -> None:
        """Let messages go that are only kept for replays, the oldest of all topics first, for `short` bytes of room."""
        # What was given up before may have to wait for a snapshot.
        short -= sum(retention.waiting_bytes for retention in self.retentions.values())
        gone = 0
        while gone < short:
            oldest = min(
                (retention for retention in self.retentions.values() if retention.retained.is_kept),
                key=lambda retention: retention.retained.oldest_ns,
                default=None,
            )
            if oldest is None:
                break
            gone += oldest.retained.give_up_oldest()
            self.context.maintain_now(oldest.topic.name)
        if gone:
            self._disk_log.log(
                self.now,
                "disk: %d bytes are free, %d bytes of finished messages are not retained any longer; "
                "free some space, or retain less",
                self.store.space.free or 0,
                gone,
            )

    def _look_at_failing_topics(self) -> None:
        """Log those that are new, and notice where missing files are back."""
        failing = self.store.failing
        for name in failing.keys() - self._reported_failing:
            self._reported_failing.add(name)
            log.error("TOPIC(%s): its files cannot be used - %s; publishes are refused", name, failing[name])
        for name in list(failing):
            retention = self.retentions.get(name)
            if retention is not None and retention.log.missing:
                with contextlib.suppress(OSError):
                    retention.log.look_again()
                    del failing[name]
        for name in self._reported_failing - failing.keys():
            self._reported_failing.remove(name)
            log.info("TOPIC(%s): its files can be used again", name)

    def _sync_by_time(self, now: float) -> None:
        """Sync within `sync_timeout` what was appended without reaching `sync_every` and without a waiting client."""
        if self.unsynced_appends and now - self._last_sync >= self.options.sync_timeout:
            self._last_sync = now
            self.store.syncer.want(self.store.syncer.written)

    @property
    def has_snapshots(self) -> bool:
        """Whether `step_snapshots` has something to write."""
        return bool(self.context.snapshots)

    def step_snapshots(self) -> bool:
        """Write one slice of one snapshot. True when there are more to write."""
        snapshots = self.context.snapshots
        if snapshots and snapshots[0].step_snapshot():
            snapshots.popleft()
        return bool(snapshots)

    # --- the end

    def close(self) -> None:
        """An orderly stop: write and sync everything. `OSError` if not everything could be written."""
        # Nothing is published any more, so the last records may use the space kept in reserve.
        self.store.space.full = None
        failure: OSError | None = None
        if self.dead_letters.has_work or self.redrives.has_work:
            # So that what has arrived is not moved once more after the start.
            self.commit()
            with contextlib.suppress(OSError):
                self.store.syncer.sync_now()
            self.dead_letters.settle_safe()
            self.redrives.settle_safe()
        for name in self.retentions:
            try:
                self.topics[name].close()
                self.retentions[name].log.keep_fresh()
                self.retentions[name].write_manifest()
            except OSError as error:
                if name not in self.store.failing:  # else nobody expects that it can be written
                    failure = error
        if failure is not None:
            # No clean mark, so that the next start recovers; but everything that was written is made durable.
            self.store.syncer.sync_now()
            raise failure
        self.store.close()
