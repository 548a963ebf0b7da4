"""Publishers and consumers in threads, which keep the books of `checker` while the daemon is killed.

A worker lives as long as the daemon does: it ends without complaint when the connection ends, or when
`stop` is set, and it can be started again for the next life with its numbers going on. Anything else,
such as an error frame or an answer that does not come, is put into `errors`, for the test to find
there.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

import attrs

from tests.process.checker import Answer, ChannelBook, Key, Ledger, make_body
from tests.process.daemon import HOST
from tests.process.raw import Disconnected, RawClient, dpub_command, mpub_command, pub_command
from tests.timing import patience

__all__ = ["Consumer", "Publisher", "Workers"]

MAX_DELAY_MS = 300
BARRIER_EVERY = 40
HELD_AT_MOST = 15


@attrs.define(eq=False)
class Workers:
    """The threads of one life of the daemon."""

    stop: threading.Event = attrs.field(factory=threading.Event)
    errors: list[str] = attrs.field(factory=list)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """Run `work(stop)` in a thread."""
        thread = threading.Thread(target=self._run, args=(name, work), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, within_s: float = 10.0) -> None:
        """Wait for all of them. One that does not end is an error."""
        deadline = time.monotonic() + patience(within_s)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.errors.append(f"{thread.name}: does not end")

    def _run(self, name: str, work: Callable[[threading.Event], None]) -> None:
        try:
            work(self.stop)
        except (Disconnected, ConnectionError):
            pass  # the daemon is gone, as was planned
        except Exception as error:
            self.errors.append(f"{name}: {type(error).__name__}: {error}")


@attrs.define(eq=False)
class Publisher:
    """One publisher: messages of one kind, numbered through all lives, at most `per_life` in each."""

    name: str
    topic: str
    ledger: Ledger
    chance: random.Random
    per_life: int = 4_000
    next_number: int = 0

    def singles(self, port: int, stop: threading.Event, *, host: str = HOST) -> None:
        """PUB one message after the other, each answered before the next."""
        with RawClient.connect(port, host=host) as client:
            for _ in range(self.per_life):
                if stop.is_set():
                    return
                key, body = self.next_message()
                client.ask_ok(pub_command(self.topic, body))
                self.ledger.acknowledged([key])

    def deferred(self, port: int, stop: threading.Event, *, host: str = HOST) -> None:
        """DPUB one message after the other, with small delays of all sizes."""
        with RawClient.connect(port, host=host) as client:
            for _ in range(self.per_life // 8):
                if stop.is_set():
                    return
                delay_ms = self.chance.randrange(MAX_DELAY_MS)
                key, body = self.next_message(delay_s=delay_ms / 1000)
                client.ask_ok(dpub_command(self.topic, delay_ms, body))
                self.ledger.acknowledged([key])
                time.sleep(0.001)

    def batches(self, port: int, stop: threading.Event, *, host: str = HOST) -> None:
        """MPUB up to 30 messages, with up to four commands in the air."""
        waiting: deque[list[Key]] = deque()
        with RawClient.connect(port, host=host) as client:
            end = self.next_number + self.per_life
            while self.next_number < end and not stop.is_set():
                waiting.append(self._send_batch(client))
                if len(waiting) == 4:
                    self._take_ok(client, waiting)
            while waiting:
                self._take_ok(client, waiting)

    def next_message(self, delay_s: float = 0.0) -> tuple[Key, bytes]:
        """Make the next message and enter the attempt: its key and its body."""
        number = self.next_number
        self.next_number += 1
        body = make_body(self.name, number, self.chance.choice((30, 200, 2_000)))
        return self.ledger.attempted(self.name, number, body, time.monotonic(), delay_s=delay_s), body

    def _send_batch(self, client: RawClient) -> list[Key]:
        first = self.next_number
        count = self.chance.randrange(1, 31)
        bodies = [make_body(self.name, first + i, 200) for i in range(count)]
        self.next_number += count
        keys = self.ledger.attempted_together(self.name, first, bodies, time.monotonic())
        client.send(mpub_command(self.topic, bodies))
        return keys

    def _take_ok(self, client: RawClient, waiting: deque[list[Key]]) -> None:
        answer = client.response()
        assert answer == b"OK", answer
        self.ledger.acknowledged(waiting.popleft())


@attrs.define(eq=False)
class Consumer:
    """One consumer of a channel: finishes most, gives some back, holds a few until its end.

    Every `BARRIER_EVERY` answers it publishes a message to the topic itself: once that is acknowledged, the
    answers before it are on disk.
    """

    name: str
    topic: str
    book: ChannelBook
    chance: random.Random
    barriers: Publisher = attrs.field(init=False)
    journaled: int = 0
    """How many answers are known to be on disk."""

    def __attrs_post_init__(self) -> None:
        """Make the publisher of the barriers."""
        self.barriers = Publisher(self.name, self.topic, self.book.ledger, self.chance)

    def work(self, port: int, stop: threading.Event, *, host: str = HOST) -> None:
        """Consume with faults until the connection ends."""
        pending: list[Answer] = []
        held = 0
        with RawClient.connect(port, host=host) as client:
            self._subscribe(client)
            while not stop.is_set():
                delivery = self._receive(client)
                if delivery is None:
                    continue
                key, message_id = delivery
                if held < HELD_AT_MOST and self.chance.random() < 0.01:
                    held += 1
                    continue
                pending.append(self._answer(client, key, message_id))
                if len(pending) >= BARRIER_EVERY:
                    self._pass_barrier(client, pending)

    def drain(self, port: int, stop: threading.Event, *, host: str = HOST) -> None:
        """Finish all that comes until told to stop."""
        with RawClient.connect(port, host=host) as client:
            self._subscribe(client)
            while not stop.is_set():
                delivery = self._receive(client)
                if delivery is not None:
                    self.book.finished(delivery[0])
                    client.fin(delivery[1])

    def _subscribe(self, client: RawClient) -> None:
        client.identify(client_id=self.name, feature_negotiation=True)
        client.sub(self.topic, self.book.channel)
        client.rdy(100)

    def _receive(self, client: RawClient) -> tuple[Key, bytes] | None:
        try:
            message = client.message(0.05)
        except TimeoutError:
            return None
        now_s = time.monotonic()
        key = self.book.delivered(message.id, message.timestamp_ns, message.attempts, message.body, now_s)
        if key is None:
            client.fin(message.id)
            return None
        return key, message.id

    def _answer(self, client: RawClient, key: Key, message_id: bytes) -> Answer:
        if self.chance.random() < 0.04:
            answer = self.book.requeued(key)
            client.req(message_id, self.chance.choice((0, 0, 20, 100)))
        else:
            answer = self.book.finished(key)
            client.fin(message_id)
        return answer

    def _pass_barrier(self, client: RawClient, pending: list[Answer]) -> None:
        key, body = self.barriers.next_message()
        client.pub(self.topic, body)
        self.book.ledger.acknowledged([key])
        self.book.journaled(pending)
        self.journaled += len(pending)
        pending.clear()
