"""A message as a consumer has it, and the ways to answer it.

Every message wants exactly one answer, `finish` or `requeue`, on the connection that it came by. Answers are plain
calls, not coroutines: they are put in order of call into what is sent next, and many of them share one send.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from nsqkit.client.errors import AlreadyAnswered

__all__ = ["Answerer", "Message"]


class Answerer(Protocol):
    """Where a message came from: takes its answer."""

    def finish(self, message: Message) -> None: ...
    def requeue(self, message: Message, delay_s: float | None, *, backoff: bool) -> None: ...
    def touch(self, message: Message) -> None: ...
    @property
    def address(self) -> str: ...


@attrs.define(eq=False, repr=False)
class Message:
    """One delivery of one message."""

    timestamp_ns: int
    """When it was published: nanoseconds since 1970, by the clock of its nsqd."""
    attempts: int
    """1 on the first delivery."""
    id: bytes
    """16 hexadecimal digits, unique in its nsqd."""
    body: bytes
    answered: bool = False
    """Whether it was finished or requeued here."""
    timed_out: bool = False
    """Whether nsqd has, by our clock, taken it back: it is or will be delivered again."""
    _source: Answerer | None = None
    _delivered_at: float = 0.0
    _held_until: float = 0.0

    def __repr__(self) -> str:
        return (
            f"<Message {self.id.decode('ascii', 'replace')} attempts={self.attempts} {len(self.body)} bytes>"
        )

    @property
    def nsqd_address(self) -> str:
        """`host:port` of the nsqd that it came from; empty for one made by hand."""
        return "" if self._source is None else self._source.address

    def finish(self) -> None:
        """Say that it is done. It will not come again, unless the connection breaks before this is sent.

        Raises `AlreadyAnswered` when it was answered before.
        """
        if self.answered:
            raise AlreadyAnswered(f"{self!r} was answered before")
        self.answered = True
        if self._source is not None:
            self._source.finish(self)

    def requeue(self, delay: float | None = None, *, backoff: bool = True) -> None:
        """Give it back, to be delivered again after `delay` seconds; 0 is at once.

        None: `default_requeue_delay` times its attempts, at most `max_requeue_delay`. `backoff`: count it as a
        failure, so that the consumer slows down. Raises `AlreadyAnswered` when it was answered before,
        `ValueError` for a negative delay.
        """
        if delay is not None and not delay >= 0:
            raise ValueError(f"a delay is 0 or more seconds, not {delay}")
        if self.answered:
            raise AlreadyAnswered(f"{self!r} was answered before")
        self.answered = True
        if self._source is not None:
            self._source.requeue(self, delay, backoff=backoff)

    def touch(self) -> None:
        """Ask nsqd for the whole message time-out again. A consumer does so by itself, unless told not to."""
        if not self.answered and self._source is not None:
            self._source.touch(self)
