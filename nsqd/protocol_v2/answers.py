"""The answers of one session, in the order of its commands.

An answer passes through up to three places:

    awaiting_commit   given in this round; nothing of it leaves before the round is committed
    awaiting_sync     at durability level `disk`, until the sync that covers the round
    the outbox        on its way to the socket

Rules:
- A round whose answers need no sync passes straight to the outbox, unless earlier answers still await theirs: then it
  queues after them. The close of a fatal error queues in the same way. Messages and heartbeats go to the outbox
  directly and overtake.
- When the append of a publish fails, its OK becomes the error, and no later answer of the round is given.
- A subscription gets its first message only after its SUB was answered.

The session puts itself on the list of those with something to release (`enlist`) once a round, with its first answer;
`Rounds.end` then calls `failed_commits`, if an append failed, and `release`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from nsqd.broker import Channel, Outbox, Subscription, Topic
from nsqkit.wire import OK, ProtocolError, encode_error

__all__ = ["Answers"]

_Subscribed = tuple[Channel, Subscription] | None


@attrs.define(eq=False, repr=False)
class Answers:
    """`fail` ends the session with an error, which is answered here."""

    _outbox: Outbox
    _enlist: Callable[[Answers], None]
    _fail: Callable[[ProtocolError], None]
    awaiting_commit: list[bytes] = attrs.field(factory=list)
    unconfirmed_publishes: list[tuple[int, Topic, int, str]] = attrs.field(factory=list)
    """Answers that depend on a commit: index in `awaiting_commit`, topic, number of the commit, command."""
    pub_counts: dict[str, int] = attrs.field(factory=dict)
    """Messages published, by topic."""
    must_sync: bool = False
    """Whether this round's answers wait for a sync."""
    _subscribed: _Subscribed = None
    """Answered in this round; it gets messages when the answer has left."""
    _awaiting_sync: deque[tuple[int, list[bytes], _Subscribed]] = attrs.field(factory=deque)
    """Per round: ticket of the sync, answers, subscription among them."""
    awaiting_sync_bytes: int = 0
    _enlisted: bool = False

    # --- commands

    def answer(self, frame: bytes) -> None:
        """Answer a command."""
        self.awaiting_commit.append(frame)
        if not self._enlisted:
            self._enlisted = True
            self._enlist(self)

    def answer_error(self, code: str, text: bytes) -> None:
        """Answer with an error that leaves the connection open."""
        self.answer(encode_error(ProtocolError(code, text).payload))

    def answer_publish(self, topic: Topic, commit_number: int, count: int, command: str) -> None:
        """Answer OK to a publish of `count` messages, if that commit of the topic succeeds."""
        counts = self.pub_counts
        counts[topic.name] = counts.get(topic.name, 0) + count
        self.unconfirmed_publishes.append((len(self.awaiting_commit), topic, commit_number, command))
        self.must_sync = True
        self.awaiting_commit.append(OK)  # as `answer` does; the call shows in a pipelined publish
        if not self._enlisted:
            self._enlisted = True
            self._enlist(self)

    def answer_subscribe(self, channel: Channel, subscription: Subscription) -> None:
        """Answer OK, and hold the messages back until it has left."""
        subscription.awaiting_commit = True
        self._subscribed = (channel, subscription)
        self.must_sync = True  # the channel may be new
        self.answer(OK)

    def end_of_input(self) -> None:
        """Take part in the end of the round, also without an answer."""
        if not self._enlisted:
            self._enlisted = True
            self._enlist(self)

    @property
    def flushed(self) -> bool:
        """Whether the socket has taken every answer so far."""
        return not self.awaiting_commit and not self._awaiting_sync and not self._outbox.size

    # --- the end of a round

    def failed_commits(self) -> None:
        """Appends of this round failed: answer with the error from the first publish on that was in one."""
        for index, topic, commit_number, command in self.unconfirmed_publishes:
            reason = topic.failed.get(commit_number)
            if reason is not None:
                del self.awaiting_commit[index:]
                self._fail(ProtocolError(f"E_{command}_FAILED", f"{command} failed {reason}"))
                return

    def release(self, ticket: int) -> bool:
        """The round is committed. `ticket`: the sync that its publishes wait for, 0 for none.

        True while answers await a sync.
        """
        self._enlisted = False
        self.unconfirmed_publishes.clear()
        answers, self.awaiting_commit = self.awaiting_commit, []
        subscribed, self._subscribed = self._subscribed, None
        if ticket and (self.must_sync or self._awaiting_sync):
            self._awaiting_sync.append((ticket, answers, subscribed))
            self.awaiting_sync_bytes += sum(map(len, answers))
        else:
            self._send(answers, subscribed)
        self.must_sync = False
        return bool(self._awaiting_sync)

    def synced(self, ticket: int) -> bool:
        """A sync has ended: send what waited for it. True when nothing awaits one any more."""
        while self._awaiting_sync and self._awaiting_sync[0][0] <= ticket:
            _, answers, subscribed = self._awaiting_sync.popleft()
            self.awaiting_sync_bytes -= sum(map(len, answers))
            self._send(answers, subscribed)
        return not self._awaiting_sync

    def refuse_waiting(self, reason: str) -> None:
        """What waits will not become safe: the first answer of it is an error, and the last of the session."""
        self._awaiting_sync.clear()
        self.awaiting_sync_bytes = 0
        self._fail(ProtocolError("E_PUB_FAILED", f"PUB failed {reason}"))

    def drop(self) -> None:
        """The connection is gone."""
        self._awaiting_sync.clear()

    def _send(self, answers: list[bytes], subscribed: _Subscribed) -> None:
        if answers:
            self._outbox.put(answers, sum(map(len, answers)))
        else:  # the end of the input: there may be nothing else to send, and the driver has to close
            self._outbox.client.wake()
        if subscribed is not None:
            channel, subscription = subscribed
            subscription.awaiting_commit = False
            channel.offer(subscription)
