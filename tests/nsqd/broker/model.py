"""What the core promises, as a model that is simple enough to be believed.

It predicts no delivery: it is told of each and says whether it was allowed, and it knows where every message must be.
Durable channels are followed exactly. An ephemeral channel may drop what it has no room for, so its model only knows
what it may still deliver.
"""

from __future__ import annotations

import attrs

from nsqkit.wire import Message

__all__ = ["ChannelModel", "Copy", "TopicModel"]

NEVER = float("-inf")


@attrs.define(eq=False)
class Copy:
    """One message in one channel. `owner`: the consumer that has it in flight; None when that one is gone."""

    id: bytes
    state: str = "ready"  # or "deferred", "in flight", "leaving"
    owner: object = None
    due: float = NEVER
    deadline: float = 0.0
    limit: float = 0.0
    fewest: int = 0  # attempts so far: a kill may forget those that were never journaled
    most: int = 0
    seq: int | None = None  # in the log, known from the first delivery on
    lost_once: bool = False
    awaiting_redelivery: list[tuple[int, float]] = attrs.field(factory=lambda: [(0, NEVER)])
    """(attempts, due): the last ones that were journaled, and those since"""

    def park(self, due: float = NEVER) -> None:
        """It waits for another delivery."""
        self.state = "deferred" if due > NEVER else "ready"
        self.due, self.owner = due, None
        self.awaiting_redelivery.append((self.most, due))

    def give_up(self) -> None:
        """It is on its way to the dead topic. That is journaled only if it was delivered before; else a snapshot has
        nothing of it, not even when it was due.
        """
        self.awaiting_redelivery.append((self.fewest, NEVER))
        self.state, self.owner, self.due = "leaving", None, NEVER


@attrs.define(eq=False)
class ChannelModel:
    """A channel. `finished_lately`: finished, but perhaps not journaled yet."""

    durable: bool
    paused: bool = False
    copies: dict[bytes, Copy] = attrs.field(factory=dict)
    finished: set[bytes] = attrs.field(factory=set)
    finished_lately: dict[bytes, Copy] = attrs.field(factory=dict)
    advanced: int = 0  # in this life of the daemon

    def enter(self, message_id: bytes, due: float = NEVER) -> None:
        copy = Copy(message_id, "deferred" if due > NEVER else "ready", due=due)
        copy.awaiting_redelivery = [(0, due)]
        self.copies[message_id] = copy
        self.advanced += 1

    def at(self, state: str) -> list[Copy]:
        return [copy for copy in self.copies.values() if copy.state == state]

    def delivered(self, message: Message, owner: object, now: float, timeout: float, longest: float) -> Copy:
        """A frame went to a client: was that allowed?"""
        assert not self.paused, "delivered while paused"
        assert message.id not in self.finished, "delivered after it was finished"
        assert message.id in self.copies, "delivered, but not in this channel"
        copy = self.copies[message.id]
        assert copy.state == "ready", f"delivered, but {copy.state} until {max(copy.due, copy.deadline)}"
        assert copy.fewest + 1 <= message.attempts <= copy.most + 1, (message, copy)
        copy.state, copy.owner, copy.due = "in flight", owner, NEVER
        copy.fewest = copy.most = message.attempts
        copy.deadline, copy.limit = now + timeout, now + longest
        return copy

    def finish(self, message_id: bytes) -> None:
        copy = self.copies.pop(message_id)
        self.finished.add(message_id)
        self.finished_lately[message_id] = copy

    def begin_at(self, there: dict[int, bytes], due: dict[bytes, float], now: float) -> None:
        """It goes on with these messages, by number, and no others. `due`: of those that have to wait."""
        old, self.copies = self.copies, {}
        for seq, message_id in there.items():
            copy = self.copies[message_id] = Copy(message_id, seq=seq)
            was = old.get(message_id)
            copy.due = was.due if was is not None and was.state == "deferred" else due.get(message_id, NEVER)
            copy.due = copy.due if copy.due > now else NEVER
            copy.state = "deferred" if copy.due > NEVER else "ready"
            copy.awaiting_redelivery = [(0, copy.due)]
        self.advanced += len(self.copies.keys() - old.keys())
        self.finished |= old.keys()
        self.finished -= self.copies.keys()
        self.finished_lately.clear()

    def leave(self, owner: object, unsent: set[bytes]) -> None:
        """A connection has ended."""
        for copy in [copy for copy in self.at("in flight") if copy.owner is owner]:
            copy.owner = None
            if copy.id in unsent:
                copy.most -= 1
                copy.fewest -= 1
                copy.state = "ready"
            elif not copy.lost_once:
                copy.lost_once = True
                copy.park()

    def pass_time(self, now: float) -> None:
        for copy in self.at("in flight"):
            if copy.deadline <= now:
                copy.park()
        for copy in self.at("deferred"):
            if copy.due <= now:
                copy.state = "ready"

    def journaled(self) -> None:
        """Everything that happened so far is in the log."""
        self.finished_lately.clear()
        for copy in self.copies.values():
            if copy.most or copy.state != "leaving":
                del copy.awaiting_redelivery[:-1]

    def restarted(self, now: float, settled: set[int], deferred: dict[int, float], *, orderly: bool) -> None:
        """The daemon was killed. `settled`, `deferred`: what it says of the numbers that it is asked for."""
        for message_id, copy in self.finished_lately.items():
            if copy.seq not in settled:  # its FIN was not journaled: it comes again
                self.finished.discard(message_id)
                self.copies[message_id] = copy
        self.finished_lately.clear()
        self.advanced = 0
        for copy in self.copies.values():
            dues = {due for _, due in copy.awaiting_redelivery}
            due = max(dues) if copy.seq is None else deferred.get(copy.seq, NEVER)
            early = min(dues) <= now
            assert due in dues or (due == NEVER and early), (due, copy)
            copy.state = "deferred" if due > now else "ready"
            copy.due, copy.owner, copy.lost_once = due, None, False
            fewest = min(attempts for attempts, at in copy.awaiting_redelivery if at <= max(due, now))
            copy.awaiting_redelivery = [(fewest, due)]
            if not orderly:
                copy.fewest = fewest


@attrs.define(eq=False)
class TopicModel:
    """A topic. `backlog`: ids that no channel has got, each with the delay that it has to wait from then on.

    `due`: of messages with a delay that channels have got. `dropped`: before any channel got them.
    """

    paused: bool = False
    backlog: list[tuple[bytes, float | None]] = attrs.field(factory=list)
    channels: dict[str, ChannelModel] = attrs.field(factory=dict)
    due: dict[bytes, float] = attrs.field(factory=dict)
    dropped: set[bytes] = attrs.field(factory=set)

    def published(self, ids: list[bytes], delay: float | None, now: float) -> None:
        self.backlog += [(message_id, delay) for message_id in ids]
        self.flow(now)

    def flow(self, now: float) -> None:
        """Unless it is paused, or has no channel, every channel gets what there is."""
        if self.paused or not self.channels:
            return
        self.due.update((message_id, now + delay) for message_id, delay in self.backlog if delay is not None)
        for channel in self.channels.values():
            for message_id, _ in self.backlog:
                channel.enter(message_id, self.due.get(message_id, NEVER))
        self.backlog.clear()
