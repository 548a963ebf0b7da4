"""A message as a consumer receives it, and its answers.

Every message needs exactly one answer, `finish` or `requeue`, on the connection that it came by. Answers are plain
calls, not coroutines: they are queued in the order of the calls, and many of them share one send.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from nsqkit.client.errors import AlreadyAnswered

__all__ = ["Answer", "Answerer", "Finish", "Message", "Requeue"]


@attrs.frozen
class Finish:
    """A message was finished."""


@attrs.frozen
class Requeue:
    """A message was requeued, as in `Message.requeue(delay, backoff=...)`."""

    delay: float | None = None
    """Seconds; None: as the options say."""
    backoff: bool = attrs.field(default=True, kw_only=True)


Answer = Finish | Requeue
_FINISH = Finish()


class Answerer(Protocol):
    """The connection that a message came by, which takes its answer."""

    def finish(self, message: Message) -> None: ...
    def requeue(self, message: Message, delay_s: float | None, *, backoff: bool) -> None: ...
    def touch(self, message: Message) -> None: ...
    @property
    def address(self) -> str: ...


@attrs.define(eq=False, repr=False)
class Message:
    """One delivery of a message.

    Made by hand, it takes its answer and notes it, for tests of handlers:

        message = Message(timestamp_ns=0, attempts=1, id=b"0" * 16, body=b"job")
        await handle(message)
        assert message.answer == Requeue(3)
    """

    timestamp_ns: int
    """When it was published, in nanoseconds since 1970, by the clock of its nsqd."""
    attempts: int
    """How many times it was delivered; 1 on the first delivery."""
    id: bytes
    """16 hexadecimal digits, unique on its nsqd."""
    body: bytes
    value: Any = None
    """The decoded body, if the consumer has a codec."""
    answered: bool = False
    """Whether it was finished or requeued."""
    answer: Answer | None = None
    """Its answer: `Finish()` or `Requeue(delay, backoff=...)`; None: it has none yet."""
    timed_out: bool = False
    """Whether it was not answered in time, or its connection was lost: nsqd delivers it again."""
    _source: Answerer | None = None
    _delivered_at: float = 0.0
    _held_until: float = 0.0

    def __repr__(self) -> str:
        return (
            f"<Message {self.id.decode('ascii', 'replace')} attempts={self.attempts} {len(self.body)} bytes>"
        )

    @property
    def nsqd_address(self) -> str:
        """`host:port` of the nsqd that it came from; empty for a message made by hand."""
        return "" if self._source is None else self._source.address

    def finish(self) -> None:
        """Finish the message (FIN). nsqd does not deliver it again, unless the connection breaks before FIN is sent.

        Raises `AlreadyAnswered`.
        """
        if self.answered:
            raise AlreadyAnswered(f"{self!r} was answered before")
        self.answered = True
        self.answer = _FINISH
        if self._source is not None:
            self._source.finish(self)

    def requeue(self, delay: float | None = None, *, backoff: bool = True) -> None:
        """Give the message back (REQ), to be delivered again after `delay` seconds; 0 is at once.

        `delay`: None is `default_requeue_delay` times its attempts, at most `max_requeue_delay`. `backoff`: count it as
        a failure, so that the consumer backs off. Raises `AlreadyAnswered`, and `ValueError` for a negative delay.
        """
        if delay is not None and not delay >= 0:
            raise ValueError(f"a delay is 0 or more seconds, not {delay}")
        if self.answered:
            raise AlreadyAnswered(f"{self!r} was answered before")
        self.answered = True
        self.answer = Requeue(delay, backoff=backoff)
        if self._source is not None:
            self._source.requeue(self, delay, backoff=backoff)

    def touch(self) -> None:
        """Begin a new message time-out (TOUCH). Not needed with the option `auto_touch`, which is on by default."""
        if not self.answered and self._source is not None:
            self._source.touch(self)
