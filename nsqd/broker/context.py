"""State shared by all topics and channels of one broker: clock, options, memory budgets, and the work of a round.

During a round topics and channels register the work for its end: topics that have something to append
(`commit_soon`), channels that have something to deliver (`pump_soon`), logs that need maintenance
(`schedule_maintenance`). `Broker` processes these lists. Topics and channels know the broker only through this object.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import Protocol

import attrs

from nsqd.broker.errors import Refused
from nsqd.broker.leaving import LetterSource
from nsqd.broker.locality import Topology
from nsqd.broker.timers import Timers
from nsqd.broker.window import WindowBudget
from nsqd.log.budget import MemoryBudget
from nsqd.log.segment import Damage
from nsqd.log.store import OF_ONE_TOPIC, Store
from nsqd.log.topic_log import TopicLog
from nsqd.rules import NO_RULES, Rules
from nsqkit.logging import get_logger

__all__ = ["DRAIN", "BrokerContext", "BrokerOptions", "EphemeralBudget"]

log = get_logger("broker")

# Seconds between two log lines on the same error. A failing disk fails every round, thousands of times a second.
WRITE_ERROR_INTERVAL = 1.0
DRAIN = "drain"  # the cause for which a drain refuses publishes
# Reads of the log in place, in one round. The others are jobs, which bounds the length of a round.
INLINE_READS = 8


@attrs.frozen(kw_only=True)
class BrokerOptions:
    """Times in seconds, sizes in messages or bytes. The defaults are those of nsqd's flags."""

    mem_queue_size: int = 10_000
    mem_queue_bytes: int = 64 << 20
    max_msg_timeout: float = 900.0
    max_req_timeout: float = 3600.0
    max_channel_consumers: int = 0
    sync_on_commit: bool = False  # durability level `disk`
    sync_every: int = 2500
    sync_timeout: float = 2.0
    latency_window: float = 0.0  # how far back latencies are measured; 0: not at all
    has_registries: bool = False  # recovered topics that never flowed wait for `start`, as new topics do
    topology: Topology | None = None  # this daemon's location, with topology-aware consumption only
    rules: Rules = NO_RULES


@attrs.define
class EphemeralBudget:
    """Bytes that all ephemeral topics and channels together may hold in memory."""

    limit: int
    used: int = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False, and nothing reserved, when that would exceed the limit."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        self.used -= size


class Pumpable(Protocol):
    """A channel that may have something to deliver."""

    def pump(self) -> None: ...


class Snapshotting(Protocol):
    """A topic's retention while it writes a snapshot."""

    def step_snapshot(self) -> bool:
        """Write one slice; True when there are no more slices to write."""


class Limited(Protocol):
    """A topic with limits."""

    def look(self, now: float) -> None:
        """Do what is due. Called once a second; `now`: seconds of the broker's clock."""


class BrokerContext:
    """`now`: seconds of a monotonic clock; `wall_ns`: wall time in nanoseconds since 1970.

    Both are set at the start of a round, and refreshed within it only before commands that carry a delay.
    """

    def __init__(self, store: Store, options: BrokerOptions, now: float, wall_ns: int) -> None:
        self.store = store
        self.space = store.space
        self.options = options
        self.now, self.wall_ns = now, wall_ns
        self.window_budget = WindowBudget(options.mem_queue_bytes)
        self.read_ahead = MemoryBudget(options.mem_queue_bytes)
        self.ephemeral_bytes = EphemeralBudget(options.mem_queue_bytes)
        self.timers = Timers()
        self.refusal: str | None = None  # why publishing is refused, apart from a full disk; see `refuse`
        self._refusals: dict[str, str] = {}
        self.failures: list[dict[int, str]] = []  # `Topic.failed` of those whose commit failed in this round
        self.to_commit: dict[str, None] = {}  # names of topics, in the order of their first publish
        self.to_pump: dict[Pumpable, None] = {}
        self.leaving: dict[LetterSource, None] = {}  # have messages for their dead topics
        self.to_maintain: dict[str, None] = {}  # names of topics whose log may have something to release
        self.to_maintain_now: dict[str, None] = {}  # the same, of which some work has just been completed
        self.limited: dict[str, Limited] = {}  # by the topic's name
        self.snapshots: deque[Snapshotting] = deque()  # whose snapshot has slices to write
        self.sync_due = False  # `sync_every` messages are unsynced
        self.round = 0  # counted by `Broker.advance`
        self._reads_in = 0  # the round in which `_reads` were counted
        self._reads = 0
        # Seconds that the wall clock is behind at least, as far as recorded due times tell.
        self.clock_behind = 0.0
        self._reported_errno: int | None = None
        self._reported_at = 0.0

    # --- work for the end of the round

    def commit_soon(self, topic_name: str) -> None:
        """Register a topic that has something for the round's append."""
        self.to_commit[topic_name] = None

    def pump_soon(self, channel: Pumpable) -> None:
        """Register a channel that may have something to deliver."""
        self.to_pump[channel] = None

    def leave_soon(self, channel: LetterSource) -> None:
        """Register a channel that has messages for its dead topic."""
        self.leaving[channel] = None

    def schedule_maintenance(self, topic_name: str) -> None:
        """Register a topic for the next maintenance, within a second."""
        self.to_maintain[topic_name] = None

    def maintain_now(self, topic_name: str) -> None:
        """Register a topic for maintenance at the end of this round."""
        self.to_maintain_now[topic_name] = None

    def wrote(self, topic_name: str, topic_log: TopicLog, messages: int) -> None:
        """Account for an append to a topic's log: `messages` messages, perhaps with other records."""
        self.store.wrote(topic_log)
        if self.store.failing:
            self.store.failing.pop(topic_name, None)
        self.to_maintain[topic_name] = None
        # Counted for each topic: one count for all caused more syncs, 10 % of the CPU with 1,000 topics.
        topic_log.unsynced_messages += messages
        if topic_log.unsynced_messages >= self.options.sync_every:
            self.sync_due = True

    def may_read_inline(self) -> bool:
        """Take one of the reads that all channels together may make in place in this round, if one is left."""
        if self.round != self._reads_in:
            self._reads_in, self._reads = self.round, 0
        self._reads += 1
        return self._reads <= INLINE_READS

    # --- refusals and errors

    def refuse(self, cause: str, reason: str | None) -> None:
        """Refuse publishing for a cause, with this reason; or, with None, no longer for this cause."""
        if reason is None:
            self._refusals.pop(cause, None)
        else:
            self._refusals[cause] = reason
        self.refusal = next(iter(self._refusals.values()), None)

    def refusal_for(self, cause: str) -> str | None:
        """The reason of `refuse`, if publishing is refused for this cause."""
        return self._refusals.get(cause)

    def refuse_when_full(self) -> None:
        """Raise `Refused` while the disk is full: nothing may be published or created."""
        if self.space.full is not None:
            raise Refused(self.space.full)

    def refuse_publishing(self) -> None:
        """Raise `Refused` while nothing may be published: the disk is full, or somebody asked for that (`refuse`)."""
        if self.refusal is not None:
            raise Refused(self.refusal)
        if self.space.full is not None:
            raise Refused(self.space.full)

    def refuse_moving(self) -> None:
        """Raise `Refused` while no message may be moved to another topic: as for publishing, but for a drain, which
        would wait for such a message.
        """
        for cause, reason in self._refusals.items():
            if cause != DRAIN:
                raise Refused(reason)
        self.refuse_when_full()

    def report_write_error(self, topic_name: str, error: OSError, *, exists: bool = True) -> None:
        """Log it, and keep it for the health. `exists`: whether there is such a topic."""
        if exists and error.errno in OF_ONE_TOPIC:
            self.store.failing[topic_name] = error.strerror or str(error)
        elif error.errno != errno.EEXIST:  # something else has the name of the topic's folder
            self.space.failed(error)
        repeated = error.errno == self._reported_errno
        if not repeated or self.now - self._reported_at >= WRITE_ERROR_INTERVAL:
            self._reported_errno, self._reported_at = error.errno, self.now
            log.error("TOPIC(%s): failed to write - %s", topic_name, error)

    def report_read_error(self, topic_name: str, error: OSError) -> None:
        log.error("TOPIC(%s): failed to read - %s; retrying in a second", topic_name, error)

    def report_damage(self, topic_name: str, damage: Damage) -> None:
        lost = f"messages {damage.first} to {damage.end - 1} are lost" if damage.end > damage.first else ""
        log.error(
            "TOPIC(%s): %s is damaged at byte %d (%s): %d bytes set aside, %s",
            topic_name,
            damage.path,
            damage.offset,
            damage.reason,
            damage.size,
            lost or "no message is lost",
        )
