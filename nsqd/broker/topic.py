"""What every topic does, wherever it keeps its messages: take publishes, and have channels.

`LogTopic` keeps them on disk, `EphemeralTopic` in memory.
"""

from __future__ import annotations

from nsqd.broker.channel import Channel
from nsqd.broker.context import BrokerContext
from nsqd.broker.errors import NotFound, Refused
from nsqd.broker.locality import Locality, Topology
from nsqd.broker.oldest import PublishTime
from nsqd.broker.outbox import Outbox
from nsqd.broker.subscription import Subscription
from nsqd.log.topic_log import Batch
from nsqkit.wire.frames import BODY
from nsqkit.wire.names import is_ephemeral

__all__ = ["Topic"]

RECORD_BYTES = 1 << 20  # messages of several publishes share a record up to about this size


class Topic:
    """Base of both kinds. `batch` is the number of the commit that what is published now belongs to."""

    def __init__(self, broker: BrokerContext, name: str) -> None:
        self.broker = broker
        self.name = name
        self.channels: dict[str, Channel] = {}
        self.paused = False
        self.started = True
        self.message_count = 0
        self.message_bytes = 0
        self.dropped_count = 0  # by emptying, by an ephemeral queue that was full
        self.batch = 0
        self.failed: dict[int, str] = {}  # commits of this round that failed, and why
        self._pending: list[Batch] = []

    # --- what a kind of topic says

    @property
    def depth(self) -> int:
        """Messages that no channel has got yet."""
        raise NotImplementedError

    @property
    def backend_depth(self) -> int:
        raise NotImplementedError

    def oldest(self) -> PublishTime:
        """When the oldest of those messages was published."""
        raise NotImplementedError

    def commit(self) -> None:
        """Write what has gathered, and offer it to the channels. Failures are in `failed`."""
        raise NotImplementedError

    def _make_channel(self, name: str) -> Channel:
        raise NotImplementedError

    def _set_paused(self, paused: bool) -> None:
        raise NotImplementedError

    def empty(self) -> None:
        """Drop what no channel has got yet. `Refused` when the disk does."""
        raise NotImplementedError

    def empty_channel(self, name: str) -> None:
        raise NotImplementedError

    def pause_channel(self, name: str, paused: bool) -> None:
        raise NotImplementedError

    def _channel_goes(self, channel: Channel) -> None:
        """Write that it is deleted, where that is written. `Refused` when the disk says no: then it stays."""
        raise NotImplementedError

    def start(self) -> None:
        """Its channels elsewhere are known: let the messages flow."""
        raise NotImplementedError

    # --- publishing

    @property
    def flowing(self) -> bool:
        return self.started and not self.paused and bool(self.channels)

    def publish(self, frames: list[bytes], size: int) -> None:
        """Take messages as whole frames, of `size` bytes together.

        They are written with the round's commit, all or none of them.
        """
        if self._pending:
            last = self._pending[-1]
            if last.delays is None and last.size < RECORD_BYTES:
                last.frames += frames
                last.size += size
                return
        else:
            self.broker.commit_soon(self)
        self._pending.append(Batch(frames, size))

    def publish_deferred(self, frame: bytes, delay_ns: int) -> None:
        """Take one message that is to be delivered after a delay."""
        self.broker.commit_soon(self)
        self._pending.append(Batch([frame], len(frame), [delay_ns]))

    def _take_pending(self) -> list[Batch]:
        batches, self._pending = self._pending, []
        self.batch += 1
        self._count(batches, 1)
        return batches

    def _count(self, batches: list[Batch], sign: int) -> None:
        """These were published; with -1: they were not, after all."""
        for batch in batches:
            count = len(batch.frames)
            self.message_count += sign * count
            self.message_bytes += sign * (batch.size - BODY * count)

    # --- channels

    def channel(self, name: str) -> Channel:
        """The channel of this name, made when it is not there. `Refused` when the disk says no."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self._make_channel(name)
        return channel

    def existing(self, name: str) -> Channel:
        """`NotFound` when there is no such channel."""
        try:
            return self.channels[name]
        except KeyError:
            raise NotFound(name) from None

    def subscribe(
        self, name: str, outbox: Outbox, timeout: float, sample: int = 0, topology: Topology | None = None
    ) -> Subscription:
        """Add a client to a channel, which is made when it is not there. `Refused` when it has all it may have.

        `topology`: where it says it is; None when it has not said anything of itself.
        """
        channel = self.channel(name)
        limit = self.broker.max_channel_consumers
        if limit and len(channel.subscriptions) >= limit:
            raise Refused(f"consumers for {self.name}:{name} exceeds limit of {limit}")
        here = self.broker.options.topology
        locality = here.locality_of(topology) if here is not None else Locality.REMOTE
        subscription = Subscription(channel, outbox, timeout, sample, locality)
        channel.join(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription, unsent: set[bytes]) -> None:
        """A connection has ended; `unsent`: ids of messages that the socket never took.

        An ephemeral channel goes with its last client.
        """
        channel = subscription.channel
        channel.detach(subscription, unsent)
        alone = not channel.subscriptions and self.channels.get(channel.name) is channel
        if alone and is_ephemeral(channel.name):
            self.delete_channel(channel.name)

    def pause(self, paused: bool) -> None:
        """`Refused` when the disk says no."""
        if paused != self.paused:
            self._set_paused(paused)

    def delete_channel(self, name: str) -> None:
        """`NotFound`; `Refused` when the disk says no."""
        channel = self.existing(name)
        self._channel_goes(channel)
        del self.channels[name]
        channel.disconnect_all()
        channel.close()
        self.broker.channel_deleted(self.name, channel)
