"""What all topics and channels of a broker have in common.

One clock, the limits, the budgets of memory, the store; and the lists of what the end of the round has to do: topics
that have something to write, channels that have something to hand out. `Broker` is one of these; topics and channels
know no more of it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import attrs

from nsqd.broker.errors import Refused
from nsqd.broker.locality import Topology
from nsqd.broker.read_ahead import ReadAheadBudget
from nsqd.broker.timers import Timers
from nsqd.broker.window import WindowBudget
from nsqd.log.segment import Damage
from nsqd.log.store import Store
from nsqd.log.topic_log import TopicLog
from nsqkit.logging import get_logger

__all__ = ["BrokerContext", "BrokerOptions"]

log = get_logger("broker")

NOTE_EVERY = 1.0  # seconds between two lines on the same error: a disk that refuses does so each round


@attrs.frozen(kw_only=True)
class BrokerOptions:
    """Times in seconds, sizes in messages or bytes; the defaults are nsqd's flags."""

    mem_queue_size: int = 10_000
    mem_queue_bytes: int = 64 << 20
    max_msg_timeout: float = 900.0
    max_req_timeout: float = 3600.0
    max_channel_consumers: int = 0
    sync_on_commit: bool = False  # level `disk`
    sync_every: int = 2500
    sync_timeout: float = 2.0
    latency_window: float = 0.0  # how far back latencies are measured; 0: they are not
    has_registries: bool = False  # recovered topics that never flowed wait for `start`, as new ones do
    topology: Topology | None = None  # with topology-aware consumption: where this daemon is


@attrs.define
class ByteCount:
    """What all ephemeral topics and channels hold together, which may be `limit` bytes."""

    limit: int
    used: int = 0

    def take(self, size: int) -> bool:
        """False when it would be too much."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True


class Committing(Protocol):
    """A topic, as the end of a round sees it."""

    failed: dict[int, str]

    def commit(self) -> None: ...


class Pumping(Protocol):
    """A channel, as the end of a round sees it."""

    name: str

    def pump(self) -> None: ...


class Keeping(Protocol):
    """A topic's keeper, as housekeeping sees it."""

    def maintain(self) -> bool: ...
    def step_snapshot(self) -> bool: ...


class BrokerContext:
    """See the module.

    `now`: seconds of a monotonic clock; `wall_ns`: wall time. Both stand still within a round, but for commands with a
    delay.
    """

    def __init__(self, store: Store, options: BrokerOptions, now: float, wall_ns: int) -> None:
        self.store = store
        self.options = options
        self.now, self.wall_ns = now, wall_ns
        self.max_msg_timeout = options.max_msg_timeout
        self.max_delay = options.max_req_timeout
        self.max_channel_consumers = options.max_channel_consumers
        self.mem_queue_size = options.mem_queue_size
        self.mem_queue_bytes = options.mem_queue_bytes
        self.window_budget = WindowBudget(options.mem_queue_bytes)
        self.read_ahead = ReadAheadBudget(options.mem_queue_bytes)
        self.ephemeral = ByteCount(options.mem_queue_bytes)
        self.timers = Timers()
        self.refusal: str | None = None  # why nothing may be published, whatever the disk says
        self.failures: list[Committing] = []  # topics whose commit failed in this round
        self.snapshots: deque[Keeping] = deque()  # whose snapshot has slices to write
        self._to_commit: dict[Committing, None] = {}
        self._to_pump: dict[Pumping, None] = {}
        self._busy: dict[Keeping, None] = {}  # there may be something to do for the next housekeeping
        self._sync_due = False  # by the number of messages, see `sync_every`
        self._noted_errno: int | None = None
        self._noted_at = 0.0

    # --- what the end of the round has to do

    def commit_soon(self, topic: Committing) -> None:
        self._to_commit[topic] = None

    def pump_soon(self, channel: Pumping) -> None:
        self._to_pump[channel] = None

    def schedule_maintenance(self, retention: Keeping) -> None:
        """There may be something to do for the next housekeeping."""
        self._busy[retention] = None

    def wrote(self, topic_log: TopicLog, retention: Keeping, messages: int) -> None:
        """A topic's log has grown, by this many messages among other things."""
        self.store.wrote(topic_log)
        self._busy[retention] = None
        topic_log.unsynced_messages += messages
        if topic_log.unsynced_messages >= self.options.sync_every:
            self._sync_due = True

    # --- what comes and goes

    def channel_created(self, topic_name: str, channel: Pumping) -> None:
        raise NotImplementedError

    def channel_deleted(self, topic_name: str, channel: Pumping) -> None:
        raise NotImplementedError

    # --- trouble

    def refuse_when_full(self) -> None:
        """`Refused` while nothing may be published or created."""
        if self.store.full is not None:
            raise Refused(self.store.full)

    def refuse_publishing(self) -> None:
        """`Refused` while nothing may be published."""
        if self.refusal is not None:
            raise Refused(self.refusal)
        self.refuse_when_full()

    def note_write_error(self, topic_name: str, error: OSError) -> None:
        self.store.failed(error)
        if error.errno != self._noted_errno or self.now - self._noted_at >= NOTE_EVERY:
            self._noted_errno, self._noted_at = error.errno, self.now
            log.error("TOPIC(%s): failed to write - %s", topic_name, error)

    def note_read_error(self, topic_name: str, error: OSError) -> None:
        log.error("TOPIC(%s): failed to read - %s; tried again in a second", topic_name, error)

    def note_damage(self, topic_name: str, damage: Damage) -> None:
        log.error(
            "TOPIC(%s): %s is damaged at byte %d (%s): %d bytes set aside, messages %d to %d are lost",
            topic_name,
            damage.path,
            damage.offset,
            damage.reason,
            damage.size,
            damage.first,
            damage.end - 1,
        )
