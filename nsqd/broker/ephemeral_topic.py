"""Topics that live in memory only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.ephemeral_channel import EphemeralChannel
from nsqd.broker.latency import published_ns
from nsqd.broker.oldest import PublishTime
from nsqd.broker.topic import Topic

__all__ = ["EphemeralTopic"]


class EphemeralTopic(Topic):
    """A topic in memory. While it does not flow it keeps at most `mem-queue-size` messages, the oldest ones."""

    def __init__(self, broker: BrokerContext, name: str) -> None:
        super().__init__(broker, name)
        self._backlog: deque[tuple[bytes, int | None]] = deque()
        self._backlog_bytes = 0
        self._next = 0

    @property
    def depth(self) -> int:
        return len(self._backlog)

    @property
    def backend_depth(self) -> int:
        return 0

    def oldest(self) -> PublishTime:
        return published_ns(self._backlog[0][0]) if self._backlog else None

    def commit(self) -> None:
        for batch in self._take_pending():
            delays: Sequence[int | None] = batch.delays or [None] * len(batch.frames)
            for frame, delay in zip(batch.frames, delays, strict=True):
                room = self.flowing or len(self._backlog) < self.broker.mem_queue_size
                if not room or not self.broker.ephemeral.take(len(frame)):
                    self.dropped_count += 1
                    continue
                self._backlog.append((frame, delay))
                self._backlog_bytes += len(frame)
        self._flow()

    def _flow(self) -> None:
        if not self.flowing:
            return
        run: list[bytes] = []
        first, backlog = self._next, self._take_backlog()
        for frame, delay in backlog:
            if delay is None:
                run.append(frame)
            else:
                self._enter(first, run)
                due = self.broker.now + delay / 1e9
                for channel in self._ephemeral():
                    channel.enqueue_deferred(self._next, frame, due)
                run, first = [], self._next + 1
            self._next += 1
        self._enter(first, run)

    def _take_backlog(self) -> deque[tuple[bytes, int | None]]:
        """The channels count what they hold themselves."""
        self.broker.ephemeral.used -= self._backlog_bytes
        self._backlog_bytes = 0
        backlog, self._backlog = self._backlog, deque()
        return backlog

    def _enter(self, first: int, frames: list[bytes]) -> None:
        for channel in self._ephemeral():
            if frames:
                channel.enqueue(first, frames)

    def _ephemeral(self) -> Iterator[EphemeralChannel]:
        for channel in self.channels.values():
            assert isinstance(channel, EphemeralChannel)
            yield channel

    def _make_channel(self, name: str) -> Channel:
        self.commit()
        channel = self.channels[name] = EphemeralChannel(self.broker, self.name, name, None)
        self._flow()
        self.broker.channel_created(self.name, channel)
        return channel

    def _set_paused(self, paused: bool) -> None:
        self.commit()
        self.paused = paused
        self._flow()

    def start(self) -> None:
        self.commit()
        self.started = True
        self._flow()

    def empty(self) -> None:
        self.commit()
        self.dropped_count += len(self._take_backlog())

    def empty_channel(self, name: str) -> None:
        self.commit()
        channel = self.existing(name)
        assert isinstance(channel, EphemeralChannel)
        channel.empty()

    def pause_channel(self, name: str, paused: bool) -> None:
        channel = self.existing(name)
        channel.paused = paused
        self.broker.pump_soon(channel)

    def _channel_goes(self, channel: Channel) -> None:
        """Nothing of it was ever written."""
