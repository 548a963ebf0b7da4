"""The leader's side: one long-lived connection to each follower, over which it gets what it lacks.

Rules:

- Nothing here is waited for by producers or consumers: what is sent is computed from notes when there is room for it.
- If publishers wait for acknowledgements, what there is is sent at once. Otherwise `PAUSE` seconds are between two
  sends, so that many rounds share one, and acknowledgements are no rounds of the broker.
- A follower that is not in step gets no more than `CatchUpRate` allows; one that is, gets everything at once.
- Every connection is given up when nothing has been heard for `SILENCE` seconds; a beat a second is echoed.
- After any failure the connection is made anew, after a pause that grows to 2.5 s, to 30 s for one who refuses us. The
  first failure is logged, those that follow at level debug.
- Whatever goes wrong here, also unexpectedly, ends a session and nothing else.
- The age of the oldest sync that hangs goes with each beat: a leader whose disk is dead shows it.
- A follower that is dismissed is supplied as any other one, until the others have everything. Then, when what only it
  has was taken back, it is told to remove its copy.
- What a scrub asks goes between two sends, one question at a time, to a follower that is in step.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NoReturn

import attrs
import trio

from nsqd.lookup.backoff import Backoff
from nsqd.lookup.protocol import RegistryError
from nsqd.replication.catch_up import CatchUpRate
from nsqd.replication.frame_stream import (
    FrameStream,
    Identity,
    RefusedUs,
    Turned,
    first_to_end,
    greet_follower,
    receive_held,
    while_beating,
)
from nsqd.replication.safety import Standing
from nsqd.replication.seal import Owned
from nsqd.replication.send_parts import send_parts
from nsqd.replication.ship import Sender
from nsqd.replication.take_back import Stranded, TakeBack
from nsqd.replication.wire import (
    ANY_LIFE,
    MAX_OTHERS,
    Ack,
    Beat,
    Bye,
    Check,
    Checked,
    Data,
    Dismissed,
    Echo,
    Ended,
    Fetch,
    Finished,
    FolderHeld,
    Found,
    Others,
    WireError,
    encode,
)
from nsqkit.logging import get_logger

__all__ = ["FollowerLink", "Leader"]

log = get_logger("copies")

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
BEAT_INTERVAL: Final = 1.0
SILENCE: Final = 10.0
BEATS_KEPT: Final = 60  # an echo of an earlier one says nothing of now
REFUSED_PAUSE: Final = 30.0
DISMISSED_PAUSE: Final = 10.0  # at least; it may never come back
CHUNK: Final = 512 * 1024  # bytes that are taken from the sender at a time
LOOK_AGAIN: Final = (
    0.1  # seconds; while nothing may be sent there are beats, and what is written raises the limit
)
PAUSE: Final = 0.005  # seconds after everything was sent, if nobody waits for it
ANSWER_TIMEOUT: Final = 60.0  # seconds for an answer to a scrub; nothing else waits for it
STEPS: Final = 100  # folders that are compared in a row, in a thread that cannot be stopped meanwhile

STRANDED: Final = "messages that are not here; they are taken back first"

Connect = Callable[[str], Awaitable[trio.abc.Stream]]


@attrs.frozen
class Leader:
    """What a link needs to know of the daemon.

    `written`: the ticket of the last append. `new_sender`: for one session with the follower of this address.
    `hanging`: seconds since the oldest sync began that has not ended. `awaited`: publishers wait for acknowledgements.
    `catch_up_rate`: see `CatchUpRate`. `changed`: the follower is in step now, or is not any more; if they are awaited
    also: an acknowledgement came. `new_take_back`, `publish_again`: for messages that only a follower has. The latter
    returns how many they were, when they are on the disk. `compared`: everything is known that this follower has.
    `ours`: of what its stand-in owns, what is ours; see `Unasked`.
    `hand_over`: a follower has adopted our copy, and its stand-in owns these messages. When it returns, it is on the
    disk that they are not ours any more. `finished_of`: what was finished here of these. `others`: addresses of the
    followers but for this one. `registries`: see `Hello`. `heard`: the follower of this address keeps our copy, and has
    answered a beat that was sent at this time. `may_go`: whether this one, which is dismissed, is to remove its copy.
    `former_lives`: those of our data path that have ended: a follower in step need not keep copies of them.
    """

    identity: Identity
    disk: bool
    written: Callable[[], int]
    new_sender: Callable[[str], Sender]
    hanging: Callable[[], float]
    awaited: bool
    catch_up_rate: int
    changed: Callable[[], None]
    new_take_back: Callable[[Stranded], TakeBack]
    publish_again: Callable[[Stranded, TakeBack], Awaitable[int]]
    compared: Callable[[str], None]
    ours: Callable[[str, Owned], Owned]
    finished_of: Callable[[Owned], Sequence[Finished]]
    hand_over: Callable[[Owned], None]
    others: Callable[[str], Sequence[str]]
    registries: Callable[[], int] = lambda: 0
    heard: Callable[[str, float], None] = lambda *_: None
    may_go: Callable[[FollowerLink], bool] = lambda _: False
    former_lives: Sequence[bytes] = ()


@attrs.define(eq=False)
class _Question:
    """What the follower is asked while other things are sent. `settled`: answered, or it will not be."""

    asked: Check | Fetch
    sent: bool = False
    answer: Checked | Data | None = None
    settled: trio.Event = attrs.field(factory=trio.Event)

    def is_answered_by(self, frame: Checked | Data) -> bool:
        if not self.sent:
            return False
        if isinstance(frame, Data):
            return isinstance(self.asked, Fetch)
        same = (frame.path, frame.offset) == (self.asked.path, self.asked.offset)
        return isinstance(self.asked, Check) and same

    def settle(self, answer: Checked | Data | None) -> None:
        self.answer = answer
        self.settled.set()


class FollowerLink:
    """The connection to one follower. `run` keeps it up until it is cancelled; `wake` after each round.

    `meant`: see `Hello`. `dismissed`: may be set at any time; when the follower has removed its copy, `is_gone` is true
    and `run` ends. `taken_back_until`: a ticket up to which messages were published again that only it had.
    `connected_at`: since when there is a session. `known_others`: addresses of other followers that it knows for sure.
    """

    def __init__(
        self, leader: Leader, standing: Standing, connect: Connect, *, meant: bytes = ANY_LIFE
    ) -> None:
        self.standing = standing
        self.meant = meant
        self.dismissed = self.is_gone = False
        self.taken_back_until = -1
        self.connected_at: float | None = None
        self.known_others: frozenset[str] = frozenset()
        self.sent_bytes = 0
        self.troubles: dict[str, str] = {}
        self._others_due = False
        self._told_others: Sequence[str] = ()
        self._told_after: int | None = None  # an echo of a later beat: it knows them
        self._told_to_go = False
        self._leader = leader
        self._connect = connect
        self._backoff = Backoff()
        self._failing = False
        self._work = trio.Event()
        self._beats = 0
        self._beats_sent: deque[tuple[int, float]] = deque(
            maxlen=BEATS_KEPT
        )  # and when, until they are echoed
        self._beat_due = False
        self._compared_after: int | None = (
            None  # an echo of a later beat: all has been removed that was to be
        )
        self._refused = False  # the last session was ended so
        self._stopping = False
        self._said_goodbye = self._for_good = self._empty = False
        self.has_taken_over = False
        self._stopped = trio.Event()
        self._sender: Sender | None = None
        self._question: _Question | None = None
        self._piece: bytes | None = None
        self._piece_arrived: trio.Event | None = None  # while one is asked for
        self._connected = False  # or about to be
        self._delay = trio.CancelScope()

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def unsent_bytes(self) -> int | None:
        """Bytes of logs that are still to be sent; None without a connection."""
        return None if self._sender is None else self._sender.unsent_bytes

    def others_changed(self) -> None:
        """The follower is to know where the others are now."""
        self._others_due = True
        self.wake()

    def wake(self) -> None:
        """There may be something to send. Never waits."""
        self._work.set()

    # --- for a scrub

    async def ask(self, what: Check | Fetch) -> Checked | Data | None:
        """The follower's answer about a segment; None when it is not in step, lacks the segment, or says nothing."""
        sender = self._sender
        if self._question is not None or sender is None or not self.standing.in_step:
            return None
        if not sender.has(what.path):
            return None
        question = self._question = _Question(what)
        self.wake()
        with trio.move_on_after(ANSWER_TIMEOUT):
            await question.settled.wait()
        return question.answer

    def send_again(self, path: str) -> None:
        """Send this segment to the follower once more, as its own is damaged."""
        if self._sender is not None:
            self._sender.send_again(path)
            self.wake()

    def reread(self, path: str) -> None:
        """Our segment has been mended."""
        if self._sender is not None:
            self._sender.reread(path)

    # --- the connection

    async def run(self) -> None:
        while True:
            pause = self._backoff.next()
            self._connected = True
            try:
                await self._connection()
            except RefusedUs as error:
                self._failed(logging.ERROR, str(error))
                self._refused = True
                pause = REFUSED_PAUSE
            except WireError as error:
                self._failed(logging.ERROR, str(error))
            except trio.TooSlowError:
                self._failed(logging.WARNING, f"nothing heard for {SILENCE:g} s")
            except (Turned, OSError, RegistryError, trio.BrokenResourceError) as error:
                self._failed(logging.WARNING, str(error) or type(error).__name__)
            except Exception as error:  # a fault of ours costs a copy, never the broker
                self._failed(logging.ERROR, f"unexpected {type(error).__name__}: {error}", error)
            finally:
                self._connected = False
            if self._stopping or self.is_gone:
                break
            await trio.sleep(max(pause, DISMISSED_PAUSE) if self.dismissed else pause)
        self._stopped.set()

    async def stop(self, *, for_good: bool = False, empty: bool = False) -> None:
        """Send what there is to send, and say goodbye. Returns at once when there is no connection.

        `for_good`: this follower shall adopt its copy; when it has, `has_taken_over` is true. `empty`: nobody will ever
        need the copy, and it is to be removed.
        """
        self._stopping, self._for_good, self._empty = True, for_good, empty
        if not self._connected:
            return
        self._delay.cancel()
        self.wake()
        await self._stopped.wait()

    def _failed(self, level: int, reason: str, unexpected: Exception | None = None) -> None:
        """`level`: a follower that is restarted is no error; one that refuses us, or is something else, is."""
        was_in_step = self.standing.in_step
        self.standing.session_ended(reason)
        self._leader.changed()
        log.log(
            logging.DEBUG if self._failing and not was_in_step else level,
            "COPIES(%s): %s; trying again until it answers",
            self.standing.address,
            reason,
            exc_info=unexpected,
        )
        self._failing = True

    async def _connection(self) -> None:
        stream = await self._connect(self.standing.address)
        async with stream:
            frames = FrameStream(stream)
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                self._tell_others()
                welcome = await greet_follower(
                    frames,
                    self._leader.identity,
                    disk=self._leader.disk,
                    others=self._told_others,
                    registries=self._leader.registries(),
                    meant=self.meant,
                )
            self.standing.life = welcome.life.hex()
            self._compared_after, self._told_to_go = None, False
            self.connected_at = trio.current_time()
            sender = self._sender = self._leader.new_sender(self.standing.address)
            try:
                held = await self._held(frames)
                self.standing.state = "catching up"
                await first_to_end(
                    lambda: self._hear(frames, sender),
                    self._beat,
                    lambda: self._session(frames, sender, held),
                )
            except (Turned, trio.BrokenResourceError):
                if not self._said_goodbye:  # then it has heard that, and closed the connection before we did
                    raise
            finally:
                self._sender = self.connected_at = None
                sender.close()
                if self._question is not None:
                    self._question.settle(None)
                    self._question = None

    async def _held(self, frames: FrameStream) -> list[FolderHeld]:
        """What the follower has. A copy that was adopted is handed over instead, and `Turned` raised."""
        held, owned, sealed = await receive_held(frames, SILENCE)
        if sealed:
            owned = self._leader.ours(self.standing.address, owned)
            # Whether it hears all that was finished here or not: they must not be delivered twice for longer than that.
            with trio.move_on_after(SILENCE), contextlib.suppress(trio.BrokenResourceError):
                for finished in self._leader.finished_of(owned):
                    await frames.send(finished)
            self._leader.hand_over(owned)
            with trio.fail_after(SILENCE):
                await frames.send(Bye(True))
            raise Turned("it has adopted our copy, and we have given up what it serves")
        return held

    async def _session(self, frames: FrameStream, sender: Sender, held: list[FolderHeld]) -> None:
        """Send whatever the follower lacks; returns when the daemon stops, and it has everything."""
        await while_beating(frames, lambda: _all_of(sender.compare(held)))
        self.troubles = {stranded.folder: STRANDED for stranded in sender.stranded}
        for stranded in sender.stranded:
            await self._take_back(frames, stranded)
            sender.taken_back(stranded)
            self.taken_back_until = self._leader.written()
            del self.troubles[stranded.folder]
        log.info("COPIES(%s): connected", self.standing.address)
        self._failing = False
        if self._refused:  # it may be full
            self._refused = False
            await send_parts(frames.stream, sender.make_room(), cold=True)
        rate = CatchUpRate(self._leader.catch_up_rate, trio.current_time(), sender.appended)
        ended = b"".join(encode(Ended(life)) for life in self._leader.former_lives)
        compared = False
        while True:
            if self.dismissed and self._leader.may_go(self):
                await self._dismiss(frames)
            self._work = trio.Event()
            written = self._leader.written()
            catching_up = not self.standing.in_step
            delay = rate.delay(trio.current_time(), sender.appended)
            if not catching_up or self._stopping:
                delay = 0.0
            parts = [] if delay else sender.take(written, CHUNK)
            if self.standing.sent(sender.ticket, complete=sender.complete):
                self._leader.changed()
            if self._others_due:
                self._tell_others()
                parts.append(encode(Others(list(self._told_others))))
            if beat := self._beat_to_send():
                parts.append(beat)
            if ended and self.standing.in_step:
                parts.append(ended)
                ended = b""
            if (question := self._question) is not None and not question.sent:
                parts.append(encode(question.asked))
                question.sent = True
            if parts:
                await send_parts(frames.stream, parts, cold=catching_up)
                size = sum(map(len, parts))
                self.sent_bytes += size
                rate.sent(size)
                if sender.complete and not compared:
                    # Until it has removed what was stranded, the next start must know of it.
                    compared, self._compared_after = True, self._beats
                if sender.ticket == written and not self._leader.awaited:
                    await trio.sleep(PAUSE)
                continue
            if delay:
                with trio.move_on_after(min(delay, LOOK_AGAIN)) as self._delay:
                    await trio.sleep_forever()
                continue
            if self._stopping and self.standing.acknowledged >= written:
                if self._empty:
                    await self._dismiss(frames)
                self._said_goodbye = True
                await frames.send(Bye(self._for_good))
                if not self._for_good:
                    return
                await trio.sleep_forever()  # until it has answered, or is gone: see `_hear`
            await self._work.wait()

    async def _dismiss(self, frames: FrameStream) -> NoReturn:
        self._told_to_go = True
        await frames.send(*map(Ended, self._leader.former_lives), Dismissed())
        await trio.sleep_forever()  # until it has answered, or is gone: see `_hear`

    async def _take_back(self, frames: FrameStream, stranded: Stranded) -> None:
        taken = self._leader.new_take_back(stranded)
        try:
            while (wanted := taken.wanted) is not None:
                taken.feed(await self._fetch(frames, *wanted))
            count = await while_beating(frames, lambda: self._leader.publish_again(stranded, taken))
        finally:
            taken.close()
        log.warning(
            "COPIES(%s): %s had messages that were lost here; %d of them are published again",
            self.standing.address,
            stranded.folder,
            count,
        )

    async def _fetch(self, frames: FrameStream, path: str, offset: int, size: int) -> bytes:
        """A piece of a file of the follower, or the beginning of it."""
        arrived = self._piece_arrived = trio.Event()
        with trio.fail_after(SILENCE):
            await frames.send(Fetch(path, offset, size))
            await arrived.wait()
        piece, self._piece = self._piece, None
        if not piece or len(piece) > size:
            raise WireError(f"{path}: not the bytes that were asked for")
        return piece

    def _tell_others(self) -> None:
        """`_told_others` are on their way."""
        self._others_due = False
        self._told_others = self._leader.others(self.standing.address)[:MAX_OTHERS]
        self._told_after = self._beats

    def _beat_to_send(self) -> bytes:
        if not self._beat_due:
            return b""
        self._beat_due = False
        self._beats += 1
        self._beats_sent.append((self._beats, trio.current_time()))
        return encode(Beat(self._beats, int(self._leader.hanging() * 1000), time.time_ns() // 1_000_000))

    def _beat_answered(self, number: int) -> None:
        while self._beats_sent and self._beats_sent[0][0] <= number:
            beat, sent_at = self._beats_sent.popleft()
            if beat == number:
                self._leader.heard(self.standing.address, sent_at)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(BEAT_INTERVAL)
            self._beat_due = True
            self.wake()

    async def _hear(self, frames: FrameStream, sender: Sender) -> None:
        while True:
            before, was_in_step = self.standing.acknowledged, self.standing.in_step
            # All that has arrived is one piece of news: each is a round of the broker.
            while (frame := frames.received()) is not None:
                match frame:
                    case Ack(ticket) if ticket <= sender.ticket:
                        self.standing.acknowledge(ticket)
                    case Echo(number):
                        if self._told_after is not None and number > self._told_after:
                            self.known_others, self._told_after = frozenset(self._told_others), None
                        self._beat_answered(number)
                        if self._compared_after is not None and number > self._compared_after:
                            self._compared_after = None
                            self._leader.compared(self.standing.address)
                    case Found(_, _, sealed, _) if self._said_goodbye:
                        self.has_taken_over = sealed
                        return
                    case Found() if self._told_to_go:
                        log.info("COPIES(%s): dismissed, and its copy is removed", self.standing.address)
                        self.is_gone = True
                        self._leader.compared(self.standing.address)
                        return
                    case Data(data) if self._piece_arrived is not None:
                        self._piece = bytes(data)
                        self._piece_arrived.set()
                        self._piece_arrived = None
                    case Data() | Checked() if (
                        question := self._question
                    ) is not None and question.is_answered_by(frame):
                        question.settle(frame)
                        self._question = None
                    case _:
                        raise WireError(f"a {type(frame).__name__} has no place here")
            if self.standing.acknowledged > before:
                self._backoff.reset()
                if self.standing.in_step is not was_in_step:
                    self._delay.cancel()
                    self._leader.changed()
                elif self._leader.awaited:
                    self._leader.changed()
                if self._stopping:
                    self.wake()
            with trio.fail_after(SILENCE):
                await frames.fill()


async def _all_of(steps: Iterator[None]) -> None:
    """Do all these steps, in threads."""
    while await trio.to_thread.run_sync(lambda: sum(1 for _ in itertools.islice(steps, STEPS))):
        pass
