"""Messages that only a follower has, taken back and published again: the broker's side of `replication.take_back`."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

import trio

from nsqd.broker import Broker, Refused, Republished
from nsqd.broker.topic import Topic
from nsqd.log.storage import Storage
from nsqd.replication.take_back import Message, Stranded, TakeBack, Taken
from nsqd.rounds import Rounds

__all__ = ["PublishAgain", "republished", "take_over_channels"]


class PublishAgain:
    """`count`: messages that were published again. `storage`: for what is fetched, until it is published."""

    def __init__(self, broker: Broker, rounds: Rounds, storage: Storage, min_free_space: int) -> None:
        self.count = 0
        self._broker, self._rounds, self._storage = broker, rounds, storage
        self._min_free_space = min_free_space
        self._taken = Taken()

    def begin(self, stranded: Stranded) -> TakeBack:
        """See `Leader.new_take_back`. `OSError` when there is no room for it."""
        size = sum(piece.size for piece in stranded.pieces)
        # What is fetched, and what of it is published. It must not take the room of what is published now.
        if self._storage.free_space() < 2 * size + self._min_free_space:
            raise OSError(
                errno.ENOSPC,
                f"no room for what only the follower has of {stranded.folder}, {size} bytes twice",
            )
        return TakeBack(self._storage, stranded)

    async def publish(self, stranded: Stranded, taken: TakeBack) -> int:
        """See `Leader.publish_again`. `OSError`."""
        name, count = stranded.folder.removeprefix("topic-"), 0
        if stranded.generation in self._broker.store.deletions:
            return 0  # since it was compared
        try:
            lost = name not in self._broker.topics
            topic = self._broker.topic(name)
            steps = taken.read([channel.backlog.generation for channel in topic.channels.values()])
            while await trio.to_thread.run_sync(lambda: next(steps, False)) is None:
                pass
            messages: Iterator[list[Message]] = iter(())
            if self._is_there(topic):
                with self._rounds.round():
                    take_over_channels(topic, taken, topic_was_lost=lost)
                messages = taken.messages()
            while (batch := await trio.to_thread.run_sync(lambda: next(messages, None))) is not None:
                if not self._is_there(topic):  # what was to be published would have been deleted with it
                    break
                count += self._publish_batch(topic, taken, batch)
        except Refused as error:
            raise OSError(
                f"{name}: messages that only a follower has cannot be noted here - {error}"
            ) from error
        await self._rounds.on_own_disk()
        self.count += count
        return count

    def _is_there(self, topic: Topic) -> bool:
        return self._broker.topics.get(topic.name) is topic

    def _publish_batch(self, topic: Topic, taken: TakeBack, batch: list[Message]) -> int:
        wanted = [
            message
            for message in batch
            if (message.number is None or topic.needs(message.number))
            and not self._taken.has(topic.name, message)
        ]

        with self._rounds.round():
            messages = republished(topic, taken, wanted)
            number = self._broker.publish_again(topic, messages)
            self._broker.commit()
            if reason := topic.failed.get(number):
                raise OSError(f"{topic.name}: {reason}")
        for message in wanted:
            self._taken.add(topic.name, message)
        return len(wanted)


def republished(topic: Topic, taken: TakeBack, messages: Iterable[Message]) -> list[Republished]:
    """These messages, as the topic takes them. Those for a channel that is not here any more are for nobody."""
    channels = {channel.generation: name for name, channel in topic.channels.items()}
    found: list[Republished] = []
    for message in messages:
        generation = None
        if message.generation is not None:
            channel = topic.channels.get(taken.channel_of(message.generation, channels) or "")
            if channel is None or not channel.generation:
                continue
            generation = channel.generation
        found.append(Republished(message.frame, message.delay_ns, message.origin, generation))
    return found


def take_over_channels(topic: Topic, taken: TakeBack, *, topic_was_lost: bool) -> None:
    """Have what a follower knows of a topic's channels, within a round. `Refused`."""
    topic.finish_elsewhere(taken.finished)
    if topic_was_lost:
        topic.pause(taken.topic_paused)
        if taken.topic_settings:
            topic.set_limits(taken.topic_settings)
    for name, paused in taken.channels.items():
        if name not in topic.channels:
            topic.channel(name)
            topic.pause_channel(name, paused)
            if settings := taken.channel_settings[name]:
                topic.set_channel_limits(name, settings)
