"""The copies of this nsqd on other nodes, and those of other nodes here: `nsqd/replication/`, put into the daemon.

As a leader (`--replicate-to`): the storage is noted, each follower has a link, and publishes are answered when enough
copies have them. As a follower (`--replication-address`): a listener for leaders. Without these options none of it
exists, and nothing costs anything.
"""

from __future__ import annotations

import errno
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from nsqd.broker import Broker, Refused
from nsqd.broker.topic import Topic
from nsqd.log.deletions import Deletions
from nsqd.log.life import Life, former_lives
from nsqd.log.storage import Storage
from nsqd.log.store import CLEAN
from nsqd.options import NsqdOptions, stand_in_ports
from nsqd.replication.before_start import ask_followers, tell_finished
from nsqd.replication.finished_elsewhere import read_line
from nsqd.replication.frame_stream import Identity
from nsqd.replication.from_leader import Follower
from nsqd.replication.held_copies import HeldCopies, Room
from nsqd.replication.keep import CopyNote
from nsqd.replication.noted_storage import NotedStorage
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.safety import Safety, Standing
from nsqd.replication.seal import Owned, Seal
from nsqd.replication.ship import Sender
from nsqd.replication.stand_in import StandIns
from nsqd.replication.take_back import Message, Stranded, TakeBack, Taken, remove_temporary_files
from nsqd.replication.to_follower import FollowerLink, Leader
from nsqd.replication.transport import Transport
from nsqd.replication.unasked import Doubt, Unasked
from nsqd.replication.wire import MAX_RUNS, START_SIZE, Finished
from nsqd.rounds import Rounds
from nsqd.stats.copies import CopiesStats, FollowerStats, HeldStats
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.service.listeners import accept_forever, close_listener, remote_address

__all__ = ["Copied", "Copies", "NotServed", "SecretError", "take_over_channels"]

log = get_logger("copies")

CHECK_INTERVAL: Final = 0.25  # seconds between two looks at overdue acknowledgements
OTHERS_INTERVAL: Final = 30.0  # seconds between two looks of a stand-in at other stand-ins
STOP_TIMEOUT: Final = 10.0  # seconds that an orderly stop waits for followers
NO_LIFE: Final = (
    "the disk was full at the start, and the start could not be noted; no copies until the next start"
)
_MAX_SECRET: Final = 4096  # bytes


class SecretError(Exception):
    """The secret file cannot be used; the text is for the operator."""


def read_secret(path: str) -> bytes:
    """What both sides must know; empty without a file. Space around it is ignored. `SecretError`."""
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            secret = file.read(_MAX_SECRET + 1).strip()
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error
    if not 16 <= len(secret) <= _MAX_SECRET:
        raise SecretError(f"{path}: a secret has 16 to {_MAX_SECRET} bytes, not {len(secret)}")
    return secret


class NotServed(Exception):
    """The data path is a copy, and should not be, or the other way round; the text is for the operator."""


class Copied:
    """A `Durability`: publishes are safe when enough copies have them. `wrote`: called after each round that wrote."""

    def __init__(self, broker: Broker, safety: Safety, wrote: Callable[[], None]) -> None:
        self._broker, self._safety, self._wrote = broker, safety, wrote
        self._written = 0
        self._syncer = broker.store.syncer
        self._disk = broker.options.sync_on_commit
        self._waits = self._disk or safety.ack_copies > 1

    @property
    def ticket(self) -> int:
        return self._syncer.written if self._waits else 0

    @property
    def reached(self) -> int:
        return self._safety.safe(self._syncer.synced if self._disk else self._syncer.written)

    def committed(self) -> None:
        # Not after every round: an acknowledgement is a round, too, and would have every link look for work.
        if self._syncer.written != self._written:
            self._written = self._syncer.written
            self._wrote()

    def want(self) -> None:
        if self._disk:  # what followers have, they say by themselves
            self._broker.want_sync()


class Copies:
    """Both sides. `make_storage`, then `attach` when the broker is there, then `run`.

    `safety`: of the followers; None without `--replicate-to`. `held`, `follower`: None without `--replication-address`.
    """

    def __init__(self, options: NsqdOptions, data_path: Path, restart: Callable[[], None]) -> None:
        self._options = options
        self._restart = restart
        self._data_path = data_path
        self._transport = Transport()
        self._secret = read_secret(options.replication_secret_file)
        self._noted: NotedStorage | None = None
        self._links: list[FollowerLink] = []
        self._listeners: list[trio.SocketListener] = []
        self._accepting = trio.CancelScope()
        self.safety: Safety | None = None
        self.held: HeldCopies | None = None
        self.follower: Follower | None = None
        self.stand_ins: StandIns | None = None
        self._seal: Seal | None = None
        self._sealed: Owned = {}  # what stand-ins have of ours
        self._sealed_by: dict[str, Owned] = {}  # what followers said before the recovery
        self._served_by: set[str] = set()  # followers whose stand-ins these are
        self._unanswered: Collection[str] = ()  # followers that were to be asked before the recovery
        self._said: str | None = None
        self._restored_bytes = self._published_again = 0
        self._taken = Taken()
        self._rounds: Rounds | None = None

    # --- start

    def load_certificates(self) -> None:
        """Create the TLS contexts, if they are configured. `TlsConfigError`."""
        options = self._options
        if options.replication_tls:
            self._transport = Transport.with_tls(options.tls_cert, options.tls_key, options.tls_root_ca_file)

    def make_storage(self, storage: Storage) -> Storage:
        """The storage for the data path: noted, if there are followers. `NotServed`."""
        self._storage = storage
        note = CopyNote.read(storage)
        if note is not None and not self._options.stand_in:
            raise NotServed(f"the data path is a copy of {note.name}; to serve its messages use --stand-in")
        if note is None and self._options.stand_in:
            raise NotServed("--stand-in: the data path is no copy of another nsqd")
        if not self._options.replicate_to:
            return storage
        remove_temporary_files(storage)
        self._noted = NotedStorage(storage)
        self._unasked = Unasked(storage)
        return self._noted

    async def ask_followers(self) -> None:
        """Before the recovery: restore what the disk has lost and a follower has; hear of an adoption. `OSError`."""
        if self._noted is None or Life.read(self._storage) is None:
            return
        try:
            life = Life.begin(self._storage)  # a follower does not take two starts for one
        except OSError as error:
            log.warning("COPIES: followers are not asked before the start - %s", error)
            return
        restore = CLEAN not in self._storage.files()
        self._told_identity = self._identity(life)
        findings = await ask_followers(
            self._options.replicate_to,
            self._told_identity,
            self._noted.inner,
            Deletions(self._storage),
            self._unasked.doubts,
            restore=restore,
            connect=self._transport.connector(),
        )
        self._sealed_by = findings.sealed
        self._restored_bytes = findings.restored_bytes
        self._unanswered = findings.unanswered if restore else ()

    def attach(self, broker: Broker) -> Copied | None:
        """After the recovery. What answers to publishers wait for; None when it is the own disk only."""
        options, life = self._options, broker.store.life
        self._broker = broker
        if options.stand_in:
            self._seal_as_owner(broker)
        if self._noted is not None:
            self.safety = Safety(
                options.ack_copies,
                options.min_copies,
                options.replica_timeout / SECOND,
                [Standing(address) for address in options.replicate_to],
            )
        if life is None:
            if options.replicate_to or options.replication_address:
                log.error("COPIES: %s", NO_LIFE)
        else:
            self._attach_both_sides(broker, self._identity(life))
        if self.safety is None:
            return None
        self._refuse_or_not()
        return Copied(broker, self.safety, self._wake)

    def _attach_both_sides(self, broker: Broker, identity: Identity) -> None:
        options = self._options
        if options.replication_address:
            room = Room(options.replica_max_bytes, 2 * options.min_free_space)
            self.held = HeldCopies(
                self._data_path,
                identity.life,
                room,
                unclean=not broker.store.clean,
                patience=options.replica_timeout / SECOND,
            )
            self.follower = Follower(self.held, identity, self._transport)
            host = _host_of(options.tcp_address)
            others = OtherFollowers(identity, self._transport.connector())
            self.stand_ins = StandIns(
                self.held, self._stand_in_command, stand_in_ports(options), host, others
            )
        if self._noted is None or self.safety is None:
            return
        self._noted.note_existing()
        self._note_unanswered(broker)
        leader = Leader(
            identity,
            broker.options.sync_on_commit,
            written=lambda: broker.store.syncer.written,
            new_sender=self._new_sender,
            hanging=lambda: self._rounds.sync_age if self._rounds is not None else 0.0,
            awaited=self.safety.ack_copies > 1,
            catch_up_rate=options.catch_up_rate,
            changed=self._changed,
            new_take_back=self._new_take_back,
            publish_again=self._publish_again,
            compared=self._compared,
            ours=self._ours,
            finished_of=self._finished_of,
            hand_over=self._hand_over,
            others=lambda address: [each for each in options.replicate_to if each != address],
            former_lives=former_lives(self._storage),
        )
        self._links = [
            FollowerLink(leader, standing, self._transport.connector()) for standing in self.safety.followers
        ]

    def _note_unanswered(self, broker: Broker) -> None:
        if not self._unanswered:
            return
        doubts: dict[int, Doubt] = {}
        for name, retention in broker.retentions.items():
            topic_log = retention.log
            # Before the newest snapshot got its name, the log before it was synced.
            synced = topic_log.snapshots[-1] if topic_log.snapshots else 0
            doubts[topic_log.generation] = Doubt(
                synced, topic_log.recovered_until, broker.lost_messages(name)
            )
        try:
            self._unasked.add(self._unanswered, doubts)
        except OSError as error:
            log.error("COPIES: followers that were not asked cannot be noted - %s", error)

    # --- adoption

    def _seal_as_owner(self, broker: Broker) -> None:
        """Before the first delivery of a stand-in: what is here is on the disk, and is its own for ever."""
        self._seal = Seal.read(self._storage)
        if self._seal is None or self._seal.owned is None:
            self._storage.sync_all()
            owner = self._seal.owner if self._seal is not None else ""
            self._seal = Seal(broker.owned_messages(), owner=owner)
            self._seal.write(self._storage)

    def retire(self) -> None:
        """The stand-in is empty, and ends. `OSError`."""
        if self._seal is not None:
            attrs.evolve(self._seal, retired=True).write(self._storage)

    def _stand_in_command(self, folder: Path, tcp_port: int, http_port: int) -> list[str]:
        host = _host_of(self._options.tcp_address)
        return [
            *(sys.executable, "-m", "nsqd"),
            *sys.argv[1:],
            "--stand-in",
            "--log-prefix=[stand-in] ",
            f"--data-path={folder}",
            f"--tcp-address={host}:{tcp_port}",
            f"--http-address={host}:{http_port}",
            "--https-address=",
            "--replication-address=",
            "--drain-timeout=0",
            "--broadcast-tcp-port=0",
            "--broadcast-http-port=0",
        ]

    def finished_elsewhere(self, line: bytes) -> None:
        """Our parent says what the leader that we stand in for has finished: see `StandIns`."""
        try:
            finished = read_line(line)
        except ValueError as error:
            log.error("COPIES: what was finished elsewhere cannot be read - %s", error)
            return
        ranges = [(start, end) for start, end in finished.runs]
        for name, retention in self._broker.retentions.items():
            found = self._broker.topics[name].channels.get(finished.channel)
            if retention.log.generation == finished.generation and found is not None:
                self._in_a_round(partial(found.finish_elsewhere, ranges))

    @property
    def adopted(self) -> bool:
        """A follower said before the recovery that it has adopted our copy: see `hand_over`."""
        return bool(self._sealed_by)

    async def hand_over_before_serving(self) -> None:
        """As `hand_over`, for a leader that was told so before its recovery. `OSError`."""
        for address, owned in self._sealed_by.items():
            for generation, ranges in self._ours(address, owned).items():
                self._sealed.setdefault(generation, []).extend(ranges)
        finished = self._finished_of(self._sealed)
        self.hand_over()
        await tell_finished(
            self._options.replicate_to, self._told_identity, finished, self._transport.connector()
        )

    def _ours(self, address: str, owned: Owned) -> Owned:
        """Of what the stand-in of this follower owns, what is ours."""
        self._served_by.add(address)
        return self._unasked.ours(address, owned, self._broker.number_at)

    def _finished_of(self, owned: Owned) -> list[Finished]:
        """What was finished here of the messages that a stand-in has: it does not know all of it."""
        broker = self._broker
        broker.advance(trio.current_time(), time.time_ns())
        broker.commit()
        try:
            return [
                Finished(generation, channel, [list(run) for run in runs[at : at + MAX_RUNS]])
                for generation, channel, runs in broker.finished_of(owned)
                for at in range(0, len(runs), MAX_RUNS)
            ]
        except (
            OSError
        ) as error:  # it is told for the sake of repetitions only, and must not hold a hand-over up
            log.warning("COPIES: what was finished here cannot be read, and comes again - %s", error)
            return []

    def hand_over(self) -> None:
        """Give up the messages that a stand-in has, and begin another life. `OSError`.

        Everything that is in memory is of before, so the daemon must be started anew.
        """
        broker = self._broker
        broker.advance(trio.current_time(), time.time_ns())
        broker.commit()
        try:
            given_up = broker.hand_over(self._sealed)
        except Refused as error:
            raise OSError(
                f"a follower has adopted our copy, and that cannot be noted here - {error}"
            ) from error
        broker.store.sync_now()
        # A follower that could not be asked after a power loss may have what neither we have nor a stand-in. One that
        # has adopted its copy serves all that is in it.
        kept = [address for address in self._unasked.addresses if address not in self._served_by]
        Life.renew(self._storage, copies_may_go=not kept)
        log.warning("COPIES: a follower serves %d messages of ours; starting anew as another life", given_up)
        for address in kept:
            log.warning(
                "COPIES(%s): its copy of the earlier life may have messages that were lost here; adopt or forget it",
                address,
            )

    def _hand_over(self, owned: Owned) -> None:
        """As `hand_over`, for a leader that hears of it while it serves."""
        self._sealed = owned
        self.hand_over()
        self._restart()

    def use_rounds(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def _identity(self, life: Life) -> Identity:
        name = f"{self._options.broadcast_address}:{self._options.broadcast_tcp_port}"
        return Identity(life.life_id, life.incarnation, secrets.token_bytes(START_SIZE), name, self._secret)

    def _new_sender(self, address: str) -> Sender:
        assert self._noted is not None
        store = self._broker.store
        return Sender(
            self._noted.inner,
            self._noted.notes,
            deleted=store.deletions.__contains__,
            removed=self._has_removed,
            doubts=self._unasked.doubts(address),
        )

    def _new_take_back(self, stranded: Stranded) -> TakeBack:
        assert self._noted is not None
        storage, size = self._noted.inner, sum(piece.size for piece in stranded.pieces)
        # What is fetched, and what of it is published. It must not take the room of what is published now.
        if storage.free_space() < 2 * size + self._options.min_free_space:
            raise OSError(
                errno.ENOSPC,
                f"no room for what only the follower has of {stranded.folder}, {size} bytes twice",
            )
        return TakeBack(storage, stranded)

    async def _publish_again(self, stranded: Stranded, taken: TakeBack) -> int:
        """See `Leader`. `OSError`."""
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
                self._in_a_round(lambda: take_over_channels(topic, taken, topic_was_lost=lost))
                messages = taken.messages()
            while (batch := await trio.to_thread.run_sync(lambda: next(messages, None))) is not None:
                if not self._is_there(topic):  # what was to be published would have been deleted with it
                    break
                count += self._publish_batch(topic, batch)
        except Refused as error:
            raise OSError(
                f"{name}: messages that only a follower has cannot be noted here - {error}"
            ) from error
        assert self._rounds is not None
        await self._rounds.on_own_disk()
        self._published_again += count
        return count

    def _is_there(self, topic: Topic) -> bool:
        return self._broker.topics.get(topic.name) is topic

    def _publish_batch(self, topic: Topic, batch: list[Message]) -> int:
        wanted = [
            message
            for message in batch
            if (message.number is None or topic.needs(message.number))
            and not self._taken.has(topic.name, message)
        ]

        def publish() -> None:
            messages = [(message.frame, message.delay_ns) for message in wanted]
            number = self._broker.publish_again(topic, messages)
            self._broker.commit()
            if reason := topic.failed.get(number):
                raise OSError(f"{topic.name}: {reason}")

        self._in_a_round(publish)
        for message in wanted:
            self._taken.add(topic.name, message)
        return len(wanted)

    def _in_a_round(self, act: Callable[[], object]) -> None:
        assert self._rounds is not None
        self._rounds.begin()
        try:
            act()
        finally:
            self._rounds.end()

    def _compared(self, address: str) -> None:
        try:
            self._unasked.compared(address)
        except OSError as error:  # it is compared again after the next start
            log.warning("COPIES(%s): %s", address, error)

    def _has_removed(self, folder: str, name: str) -> bool:
        """Whether a segment that is not here was removed: the log goes beyond it, and misses nothing."""
        retention = self._broker.retentions.get(folder.removeprefix("topic-"))
        return retention is not None and int(name.removesuffix(".log")) < retention.log.position

    # --- while it runs

    async def run(self) -> None:
        """Serve leaders, and keep followers supplied, until `stop`."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.run)
            if self.held is not None:
                nursery.start_soon(self.held.remove_forgotten)
            if self.stand_ins is not None:
                nursery.start_soon(self.stand_ins.run)
            if self.safety is not None:
                nursery.start_soon(self._check)
            if self._seal is not None:
                nursery.start_soon(self._watch_other_stand_ins, self._seal)
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(self._accept_from, listener, nursery)
            await trio.sleep_forever()

    async def _watch_other_stand_ins(self, seal: Seal) -> None:
        """Two followers may have adopted their copies of one life, by force: what both serve is given up by one."""
        note, life = CopyNote.read(self._storage), self._broker.store.life
        if note is None or life is None or not seal.owner:
            return
        others = OtherFollowers(self._identity(life), self._transport.connector())
        while True:
            for other in await others.ask(note):
                both = seal.in_common(other.owned)
                if both and "" < other.found.owner < seal.owner and self._give_up(seal, both, other.address):
                    return
            await trio.sleep(OTHERS_INTERVAL)

    def _give_up(self, seal: Seal, both: Owned, address: str) -> bool:
        """Whether that is on the disk."""
        try:
            count = self._broker.hand_over(both)
            self._broker.store.sync_now()
            seal.without(both).write(self._storage)
        except (Refused, OSError) as error:
            log.error("COPIES: what %s serves, too, cannot be given up - %s", address, error)
            return False
        log.warning("COPIES: %s serves %d messages of ours, too; starting anew without them", address, count)
        self._restart()
        return True

    @property
    def hand_over_refusal(self) -> str | None:
        """Why no follower can take over what is here."""
        if self._options.stand_in:
            return "a stand-in is not handed over"
        if not any(link.standing.in_step for link in self._links):
            return "no follower is in step"
        return None

    async def stop(self, *, hand_over: bool) -> None:
        """Send what there is to send to followers, in bounded time; one of them may take over what is here."""
        self._accepting.cancel()
        for listener in self._listeners:
            await close_listener(listener)
        heir = next((link for link in self._links if hand_over and link.standing.in_step), None)
        with trio.move_on_after(STOP_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for link in self._links:
                    nursery.start_soon(partial(link.stop, for_good=link is heir))
        if heir is not None and heir.has_taken_over:
            log.info("COPIES(%s): it has taken over all messages of ours", heir.standing.address)
        elif hand_over:
            log.error(
                "COPIES: no follower has taken over; the messages stay here, or adopt a copy by command"
            )

    def stats(self) -> CopiesStats | None:
        """None when there is nothing to tell."""
        if self.safety is None and self.held is None:
            return None
        written, now = self._broker.store.syncer.written, trio.current_time()
        links = {link.standing: link for link in self._links}
        followers = [
            FollowerStats(
                address=standing.address,
                in_step=standing.in_step,
                state=standing.state,
                lag=written - standing.acknowledged if standing.acknowledged >= 0 else None,
                lag_bytes=links[standing].unsent_bytes if standing in links else None,
                lag_seconds=None if (lag := standing.lag(now)) is None else round(lag, 3),
                sent_bytes=links[standing].sent_bytes if standing in links else 0,
                troubles=links[standing].troubles if standing in links else {},
            )
            for standing in (self.safety.followers if self.safety is not None else ())
        ]
        running = self.stand_ins.running if self.stand_ins is not None else {}
        held = [
            HeldStats(
                life=copy.note.life,
                name=copy.note.name,
                complete=copy.note.complete,
                connected=copy.connected,
                bytes=copy.bytes,
                adopted=copy.seal is not None,
                stand_in_port=ports[0] or None if (ports := running.get(copy.note.life)) else None,
                silent_seconds=None if copy.beat_at is None else round(now - copy.beat_at, 1),
                hanging_seconds=round(copy.hanging_ms / 1000, 1),
                clock_skew_seconds=None if copy.clock_skew is None else round(copy.clock_skew, 3),
            )
            for copy in (self.held.copies.values() if self.held is not None else ())
        ]
        return CopiesStats(
            wanted=1 + len(followers),
            in_step=self.safety.copies_in_step if self.safety is not None else 1,
            restored_bytes=self._restored_bytes,
            published_again=self._published_again,
            adoptions=self.stand_ins.adoptions if self.stand_ins is not None else 0,
            followers=followers,
            held=held,
        )

    def close(self) -> None:
        if self.held is not None:
            self.held.close()

    def listen_on(self, listeners: list[trio.SocketListener]) -> None:
        self._listeners = listeners

    async def _accept_from(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        follower = self.follower
        if follower is None:
            return

        def accept(stream: trio.SocketStream) -> None:
            nursery.start_soon(follower.serve, stream, remote_address(stream))

        try:
            await accept_forever(listener, accept)
        except OSError as error:
            log.error("COPIES: listener failed - %s; no leader can connect until the next start", error)

    def _wake(self) -> None:
        for link in self._links:
            link.wake()

    def _changed(self) -> None:
        """A follower has acknowledged, or came or went: answer those who have waited for it."""
        assert self._rounds is not None
        self._rounds.begin()
        self._refuse_or_not()
        self._rounds.release_safe()
        self._rounds.end()

    def _refuse_or_not(self) -> None:
        assert self.safety is not None
        refusal, degraded = self.safety.refusal, self.safety.degraded
        self._broker.refuse_publishing("copies", refusal)
        self._broker.copies_missing = degraded
        if refusal is not None and self._rounds is not None:
            self._rounds.refuse_waiting(refusal)
        said = refusal or degraded
        if said != self._said:
            level = log.warning if said else log.info
            level("COPIES: %s", said or f"{self.safety.copies_in_step} copies are in step")
            self._said = said

    async def _check(self) -> None:
        """Count out followers whose acknowledgement is overdue."""
        assert self.safety is not None
        while True:
            await trio.sleep(CHECK_INTERVAL)
            written = self._broker.store.syncer.written
            if late := self.safety.check(written, trio.current_time()):
                for standing in late:
                    log.error("COPIES(%s): %s; it is out of step", standing.address, standing.state)
                self._changed()


def take_over_channels(topic: Topic, taken: TakeBack, *, topic_was_lost: bool) -> None:
    """Have what a follower knows of a topic's channels, within a round. `Refused`."""
    topic.finish_elsewhere(taken.finished)
    if topic_was_lost:
        topic.pause(taken.topic_paused)
    for name, paused in taken.channels.items():
        if name not in topic.channels:
            topic.channel(name)
            topic.pause_channel(name, paused)


def _host_of(address: str) -> str:
    """The host of a listen address, as it is written; loopback for a unix socket, which is for this machine, too."""
    return "127.0.0.1" if "/" in address else address.rpartition(":")[0]
