"""The checker of a queue under faults: who published what, who got what, and whether that can be right.

Every body names its publisher and carries a running number, and its padding follows from both
(`make_body`), so any delivery can be traced to the one attempt that it must come from. Two books are
kept:

- `Ledger`: what was attempted and what was acknowledged, once for the topic.
- `ChannelBook`: what one channel delivered, what was finished, requeued and journaled. One for each
  channel.

Theory of operation. A run is a row of *lives* of the daemon, told apart with `crashed`. An acknowledged
message must be delivered in some life by the time the channel is drained; what was attempted but
not acknowledged may come or not, but the messages of one MPUB come all or none. A message is
delivered once in one life, unless it was requeued there. A crash brings back what was not finished, or
whose FIN was not journaled yet: a client knows that it was when a publish that it sent after the FIN on
the same connection is acknowledged (`journaled`). What comes after that is a violation. Each
delivery of one message has the same id, time stamp and bytes; its attempts are one more than
before in the same life, and more than the last journaled value after a crash; it is never earlier
than its publish plus its delay.

For this to be exact, each life must end with its consumers reading what they still have and closing,
before the next life begins; a frame from a dead daemon that is read late would look like a delivery by
the living one.

All methods may be called from any thread.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

__all__ = ["Answer", "ChannelBook", "Key", "Ledger", "Report", "make_body"]

Key = tuple[str, int]
"""A message as its publisher knows it: the publisher's name and the running number, from 0."""

SHOWN = 10


def make_body(publisher: str, number: int, size: int = 100) -> bytes:
    """Make the body of a message: `publisher:number:`, then bytes of all values that follow from them.

    `publisher` must not contain a colon. The body is longer than `size` only if its beginning alone is.
    """
    assert ":" not in publisher, publisher
    head = f"{publisher}:{number}:".encode()
    return head + hashlib.shake_128(head).digest(max(0, size - len(head)))


def key_of(body: bytes) -> Key | None:
    """Give the key that a body claims to have, or None when it is none of ours."""
    publisher, _, rest = body.partition(b":")
    number, colon, _ = rest.partition(b":")
    if not colon or not number.isdigit():
        return None
    return publisher.decode(errors="replace"), int(number)


@attrs.frozen
class Answer:
    """What a consumer said to one delivery of a message."""

    key: Key
    attempts: int
    """Of the delivery that it answers."""
    finished: bool
    """FIN; otherwise REQ."""


@attrs.define
class _Published:
    """One attempt, and what became of it."""

    digest: bytes
    sent_at_s: float
    delay_s: float
    group: int | None
    acknowledged: bool = False


@attrs.define
class _Delivered:
    """What one channel knows about one message."""

    id: bytes
    timestamp_ns: int
    life: int
    attempts: int
    """Of the last delivery."""
    journaled_attempts: int = 0
    requeued: bool = False
    """Given back since its last delivery, so that another one is right."""
    finished: bool = False
    journaled: bool = False
    """The FIN is known to be on disk."""


@attrs.define(eq=False)
class Ledger:
    """What publishers attempted and what was acknowledged."""

    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _published: dict[Key, _Published] = attrs.field(factory=dict)
    _groups: list[list[Key]] = attrs.field(factory=list)

    def attempted(
        self, publisher: str, number: int, body: bytes, now_s: float, *, delay_s: float = 0.0
    ) -> Key:
        """Enter a publish *before* it is sent. `now_s` and all other times are monotonic seconds."""
        key = (publisher, number)
        assert key_of(body) == key, body[:40]
        with self._lock:
            self._enter(key, _Published(_digest(body), now_s, delay_s, None))
        return key

    def attempted_together(
        self, publisher: str, first: int, bodies: Sequence[bytes], now_s: float
    ) -> list[Key]:
        """Enter the messages of one MPUB, numbered from `first`, before it is sent."""
        keys = [(publisher, first + i) for i in range(len(bodies))]
        with self._lock:
            group = len(self._groups)
            self._groups.append(keys)
            for key, body in zip(keys, bodies, strict=True):
                assert key_of(body) == key, body[:40]
                self._enter(key, _Published(_digest(body), now_s, 0.0, group))
        return keys

    def acknowledged(self, keys: Iterable[Key]) -> None:
        """Enter that the daemon said OK to these."""
        with self._lock:
            for key in keys:
                self._published[key].acknowledged = True

    def find(self, key: Key) -> _Published | None:
        """Give what is known about a message; None when nobody published it."""
        with self._lock:
            return self._published.get(key)

    def acknowledged_keys(self) -> list[Key]:
        """Give all that must arrive."""
        with self._lock:
            return [key for key, published in self._published.items() if published.acknowledged]

    def unanswered(self) -> list[Key]:
        """Give all that may arrive, or not."""
        with self._lock:
            return [key for key, published in self._published.items() if not published.acknowledged]

    def attempts_by_publisher(self) -> Counter[str]:
        """Count what each publisher attempted."""
        with self._lock:
            return Counter(publisher for publisher, _ in self._published)

    def groups(self) -> list[list[Key]]:
        """Give the keys of each MPUB."""
        with self._lock:
            return list(self._groups)

    def _enter(self, key: Key, published: _Published) -> None:
        assert key not in self._published, f"number used twice: {key}"
        self._published[key] = published


@attrs.define
class Report:
    """What was wrong on one channel: texts that name the message. Empty lists mean that all is well."""

    channel: str
    lost: list[str] = attrs.field(factory=list)
    """Acknowledged, never delivered; told apart by where it stood for its publisher."""
    duplicated: list[str] = attrs.field(factory=list)
    """Delivered twice in one life without having been given back."""
    resurrected: list[str] = attrs.field(factory=list)
    """Delivered after its FIN was journaled, or after its FIN in the same life."""
    phantom: list[str] = attrs.field(factory=list)
    """Delivered, though nobody published it."""
    mutated: list[str] = attrs.field(factory=list)
    """Delivered with other bytes than published, or with another id or time stamp than before."""
    partial: list[str] = attrs.field(factory=list)
    """Some, but not all messages of an MPUB came."""
    attempts: list[str] = attrs.field(factory=list)
    """The attempts did not follow from those before."""
    early: list[str] = attrs.field(factory=list)
    """Deferred, and delivered too early."""

    @property
    def ok(self) -> bool:
        """Tell whether nothing was wrong."""
        return not any(found for _, found in self._faults())

    def __str__(self) -> str:
        """Give a text for a person: how many of each fault, and the first few."""
        if self.ok:
            return f"channel {self.channel}: all is well"
        lines = [f"channel {self.channel}:"]
        for name, found in self._faults():
            if found:
                lines.append(f"  {name}: {len(found)}")
                lines.extend(f"    {text}" for text in found[:SHOWN])
        return "\n".join(lines)

    def _faults(self) -> list[tuple[str, list[str]]]:
        return [(name, found) for name, found in attrs.asdict(self).items() if isinstance(found, list)]


@attrs.define(eq=False)
class ChannelBook:
    """What one channel delivered, checked against the ledger as it comes."""

    channel: str
    ledger: Ledger
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _seen: dict[Key, _Delivered] = attrs.field(factory=dict)
    repeats: Counter[str] = attrs.field(factory=Counter)
    """Deliveries of what had come before, by what had become of that: `given back`, `finished`, `in flight`."""
    _life: int = 0
    _deliveries: int = 0
    _found: Report = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Open an empty report."""
        self._found = Report(self.channel)

    @property
    def deliveries(self) -> int:
        """Count the messages delivered, repeated ones each time."""
        with self._lock:
            return self._deliveries

    @property
    def distinct(self) -> int:
        """Count the different messages delivered."""
        with self._lock:
            return len(self._seen)

    def came(self, key: Key) -> bool:
        """Tell whether it was delivered."""
        with self._lock:
            return key in self._seen

    def crashed(self) -> None:
        """Begin the next life of the daemon. All consumers of the last one must have ended."""
        with self._lock:
            self._life += 1

    def delivered(
        self, message_id: bytes, timestamp_ns: int, attempts: int, body: bytes, now_s: float
    ) -> Key | None:
        """Enter one delivery; gives the key, or None for a phantom."""
        key = key_of(body)
        published = self.ledger.find(key) if key is not None else None
        with self._lock:
            self._deliveries += 1
            if key is None or published is None:
                self._found.phantom.append(f"{body[:40]!r} id {message_id.decode(errors='replace')}")
                return None
            if _digest(body) != published.digest:
                self._found.mutated.append(f"{_name(key)}: {len(body)} bytes are not what was published")
            if now_s < published.sent_at_s + published.delay_s:
                early_s = published.sent_at_s + published.delay_s - now_s
                self._found.early.append(f"{_name(key)}: {early_s:.3f} s early")
            before = self._seen.get(key)
            if before is None:
                self._seen[key] = _Delivered(message_id, timestamp_ns, self._life, attempts)
                self._check_first(key, attempts)
            else:
                self._check_again(key, before, message_id, timestamp_ns, attempts)
        return key

    def finished(self, key: Key) -> Answer:
        """Enter a FIN, before it is sent. Keep what it gives for `journaled`."""
        with self._lock:
            seen = self._seen[key]
            seen.finished = True
            return Answer(key, seen.attempts, finished=True)

    def requeued(self, key: Key) -> Answer:
        """Enter a REQ, before it is sent. Keep what it gives for `journaled`."""
        with self._lock:
            seen = self._seen[key]
            seen.requeued = True
            return Answer(key, seen.attempts, finished=False)

    def journaled(self, answers: Iterable[Answer]) -> None:
        """Enter that these are on disk: a publish sent after them on their connection was acknowledged."""
        with self._lock:
            for answer in answers:
                seen = self._seen[answer.key]
                if answer.finished:
                    seen.journaled = True
                else:
                    seen.journaled_attempts = max(seen.journaled_attempts, answer.attempts)

    def report(self) -> Report:
        """Say all that is wrong, once the channel is drained: before, what is under way counts as lost."""
        acknowledged = self.ledger.acknowledged_keys()
        totals = self.ledger.attempts_by_publisher()
        groups = self.ledger.groups()
        with self._lock:
            found = copy.deepcopy(self._found)
            seen = set(self._seen)
        for key in acknowledged:
            if key not in seen:
                found.lost.append(f"{_name(key)} ({_where(key, totals[key[0]])})")
        for keys in groups:
            came = [key for key in keys if key in seen]
            if came and len(came) < len(keys):
                found.partial.append(f"MPUB of {_name(keys[0])} and on: {len(came)} of {len(keys)}")
        return found

    # Inside; the lock is held.

    def _check_first(self, key: Key, attempts: int) -> None:
        # A frame sent just before a crash may never have been read, but a restart may remember it.
        if not 1 <= attempts <= self._life + 1:
            self._found.attempts.append(
                f"{_name(key)}: first seen with attempts {attempts} in life {self._life}"
            )

    def _check_again(
        self, key: Key, before: _Delivered, message_id: bytes, timestamp_ns: int, attempts: int
    ) -> None:
        if (message_id, timestamp_ns) != (before.id, before.timestamp_ns):
            self._found.mutated.append(f"{_name(key)}: another id or time stamp than before")
        same_life = before.life == self._life
        self.repeats["given back" if before.requeued else "finished" if before.finished else "in flight"] += 1
        if before.journaled or (before.finished and same_life):
            self._found.resurrected.append(f"{_name(key)}: comes again after its FIN, attempts {attempts}")
        elif same_life and not before.requeued:
            self._found.duplicated.append(f"{_name(key)}: twice in life {self._life}")
        if same_life and attempts != before.attempts + 1:
            self._found.attempts.append(f"{_name(key)}: {before.attempts}, then {attempts}")
        elif attempts <= before.journaled_attempts:
            self._found.attempts.append(
                f"{_name(key)}: {attempts}, but {before.journaled_attempts} was journaled"
            )
        before.life, before.attempts = self._life, attempts
        before.requeued = before.finished = False


def _where(key: Key, total: int) -> str:
    third = min(2, key[1] * 3 // max(1, total))
    return f"{('beginning', 'middle', 'end')[third]}, {key[1] + 1} of {total}"


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _name(key: Key) -> str:
    return f"{key[0]} number {key[1]}"
