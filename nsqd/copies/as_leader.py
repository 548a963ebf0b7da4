"""The role of a leader: followers have copies of this data path, and publishes wait for them.

In order: `ask_followers` before the recovery, `durability` after it, `attach` when there are rounds, and `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import trio

from nsqd.broker import Broker
from nsqd.copies.durability import Copied
from nsqd.copies.fencing import Fencing
from nsqd.copies.hand_over import HandOver
from nsqd.copies.links import Links
from nsqd.copies.placing import Nodes, Placing, targets
from nsqd.copies.publish_again import PublishAgain
from nsqd.copies.scrubbing import Scrubbing
from nsqd.log.deletions import Deletions
from nsqd.log.life import former_lives
from nsqd.log.storage import Storage
from nsqd.log.store import CLEAN
from nsqd.log.topic_log import TopicLog
from nsqd.options import NsqdOptions, chooses_followers
from nsqd.replication.before_start import ask_followers, tell_finished
from nsqd.replication.fence import Fence
from nsqd.replication.frame_stream import Identity
from nsqd.replication.licence import Witnesses, obstacle
from nsqd.replication.noted_storage import NotedStorage
from nsqd.replication.placement import Placed
from nsqd.replication.safety import Safety, Standing
from nsqd.replication.scrub import Scrub
from nsqd.replication.seal import Owned
from nsqd.replication.ship import Sender
from nsqd.replication.take_back import remove_temporary_files
from nsqd.replication.to_follower import FollowerLink, Leader
from nsqd.replication.transport import Transport
from nsqd.replication.unasked import Doubt, Unasked
from nsqd.replication.wire import ANY_LIFE
from nsqd.rounds import Rounds
from nsqd.stats.copies import FollowerStats
from nsqkit.logging import get_logger
from nsqkit.options import SECOND

__all__ = ["LeaderRole", "doubts_of"]

log = get_logger("copies")

CHECK_INTERVAL: Final = 0.25  # seconds between two looks at overdue acknowledgements
FIRST_LOOK: Final = 3.0  # seconds
LOOK_INTERVAL: Final = 10.0  # seconds between two looks at what keeps followers from adopting by themselves
STOP_TIMEOUT: Final = 10.0  # seconds that an orderly stop waits for followers


class LeaderRole:
    """`noted`: what the broker writes to. `safety`: of the followers. `wanted`: copies, the own one included.

    `restored_bytes`: at the start, from followers.

    `fencing`: see `--fence`; None when it is off. `obstacle`: why followers cannot adopt by themselves.
    """

    def __init__(self, options: NsqdOptions, storage: Storage) -> None:
        remove_temporary_files(storage)
        self._options, self._storage = options, storage
        self.noted = NotedStorage(storage)
        self._unasked = Unasked(storage)
        self._placed = Placed.read(storage) if chooses_followers(options) else None
        self._wanted, self._dismissed = (
            targets(self._placed)
            if self._placed is not None
            else ([(address, ANY_LIFE) for address in options.replicate_to], [])
        )
        self.wanted = options.copies or 1 + len(self._wanted)
        self.safety = Safety(
            options.ack_copies,
            options.min_copies,
            options.replica_timeout / SECOND,
            [Standing(address) for address, _ in self._wanted],
        )
        self.fencing: Fencing | None = None
        self.obstacle: str | None = None
        self.restored_bytes = 0
        self.scrubbing: Scrubbing | None = None
        self._links: Links | None = None
        self._placing: Placing | None = None
        self._witnesses: Witnesses | None = None
        self._announced: list[str] = []
        self._said: str | None = None
        self._sealed_by: dict[str, Owned] = {}  # what stand-ins have, as followers said before the recovery
        self._unanswered: Collection[str] = ()  # followers that were to be asked before the recovery

    # --- before the recovery

    async def ask_followers(self, identity: Identity, transport: Transport) -> None:
        """Restore what the disk has lost and a follower has; hear of an adoption. `OSError`."""
        restore = CLEAN not in self._storage.files()
        findings = await ask_followers(
            dict(self._wanted),
            identity,
            self._storage,
            Deletions(self._storage),
            self._unasked.doubts,
            restore=restore,
            connect=transport.connector(),
        )
        self._sealed_by = findings.sealed
        self.restored_bytes = findings.restored_bytes
        # What a dismissed follower has, it says when it is connected. A start does not wait for it.
        self._unanswered = [*findings.unanswered, *dict(self._dismissed)] if restore else ()

    @property
    def adopted(self) -> bool:
        """A follower said that it has adopted our copy: see `hand_over`."""
        return bool(self._sealed_by)

    # --- after it

    def durability(self, broker: Broker) -> Copied:
        """What answers to publishers wait for. Publishes that would have too few copies are refused from now on."""
        self._broker = broker
        self.hand_over = HandOver(broker, self._storage, self._unasked)
        self._say_standing()
        return Copied(broker, self.safety, self._wake)

    async def hand_over_before_serving(self, identity: Identity, transport: Transport) -> None:
        """Give up what stand-ins have, when that was said before the recovery, and tell them what was finished here.

        `OSError`. The daemon must be started anew.
        """
        sealed: Owned = {}
        for address, owned in self._sealed_by.items():
            for generation, ranges in self.hand_over.ours(address, owned).items():
                sealed.setdefault(generation, []).extend(ranges)
        finished = self.hand_over.finished_of(sealed)
        self.hand_over.give_up(sealed)
        await tell_finished(dict(self._wanted), identity, finished, transport.connector())

    # --- while it serves

    def attach(
        self, identity: Identity, rounds: Rounds, transport: Transport, restart: Callable[[], None]
    ) -> None:
        """Before `run`. `restart`: as nothing in memory is true after a hand-over."""
        options, broker = self._options, self._broker
        self._rounds = rounds
        self._restart = restart
        self.noted.note_existing()
        self._note_unanswered()
        if options.fence == "on":
            fence = Fence(options.adopt_after / SECOND / 2, len(options.nsqlookupd_tcp_addresses))
            self.fencing = Fencing(broker, rounds, fence)
        self._again = PublishAgain(broker, rounds, self._storage, options.min_free_space)
        leader = Leader(
            identity,
            broker.options.sync_on_commit,
            written=lambda: broker.store.syncer.written,
            new_sender=self._new_sender,
            hanging=lambda: rounds.sync_age,
            awaited=self.safety.ack_copies > 1,
            catch_up_rate=options.catch_up_rate,
            changed=self._changed,
            new_take_back=self._again.begin,
            publish_again=self._again.publish,
            compared=self._compared,
            ours=self.hand_over.ours,
            finished_of=self.hand_over.finished_of,
            hand_over=self._hand_over,
            others=lambda address: links.others(address),
            registries=lambda: len(options.nsqlookupd_tcp_addresses),
            heard=self._heard,
            may_go=lambda link: links.may_go(link),
            former_lives=former_lives(self._storage),
        )
        links = self._links = Links(
            self.safety,
            self.wanted - 1,
            lambda standing, meant: FollowerLink(leader, standing, transport.connector(), meant=meant),
            lambda: broker.store.syncer.written,
            self._has_gone,
        )
        if self._placed is not None:
            self._placing = Placing(
                options, identity.life, self._storage, self._placed, self._changed, self._moved
            )
        links.set(self._wanted, self._dismissed)
        scrub = Scrub(
            self._storage,
            self.noted.notes,
            self._log_of,
            options.scrub_interval / SECOND,
            options.catch_up_rate,
            options.min_free_space,
        )
        self.scrubbing = Scrubbing(scrub, links)

    async def run(self, witnesses: Witnesses, nodes: Nodes) -> None:
        """Keep followers supplied, until cancelled. `witnesses` hear who may adopt our copies; see `Placing.run`."""
        self._witnesses = witnesses
        self._announce()
        async with trio.open_nursery() as nursery:
            if self._links is not None:
                nursery.start_soon(self._links.run)
                nursery.start_soon(self._check)
                if self._placing is not None:
                    nursery.start_soon(self._placing.run, self._links, nodes)
            if self._options.adopt == "auto":
                nursery.start_soon(self._look_for_obstacles, witnesses)
            if self.scrubbing is not None:
                nursery.start_soon(self.scrubbing.run)

    @property
    def hand_over_refusal(self) -> str | None:
        """Why no follower can take over what is here."""
        return None if self._heir is not None else "no follower is in step"

    @property
    def _heir(self) -> FollowerLink | None:
        return next((link for link in self._links or () if link.standing.in_step), None)

    async def stop(self, *, hand_over: bool, empty: bool) -> bool:
        """Send what there is to send to followers, in bounded time; one of them may take over what is here.

        Whether it has. `empty`: this life ends, and nothing is left of it; copies go.
        """
        heir = self._heir if hand_over else None
        with trio.move_on_after(STOP_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for link in self._links or ():
                    nursery.start_soon(partial(link.stop, for_good=link is heir, empty=empty))
        if heir is not None and heir.has_taken_over:
            log.info("COPIES(%s): it has taken over all messages of ours", heir.standing.address)
            return True
        if hand_over:
            log.error(
                "COPIES: no follower has taken over; the messages stay here, or adopt a copy by command"
            )
        return False

    @property
    def published_again(self) -> int:
        """Messages that only a follower had."""
        return self._again.count if self._links is not None else 0

    @property
    def trouble(self) -> str:
        """Why there are fewer followers than wanted; empty when there are as many."""
        return self._placing.trouble if self._placing is not None else ""

    def stats(self) -> list[FollowerStats]:
        written, now = self._broker.store.syncer.written, trio.current_time()
        links = {link.standing: link for link in self._links or ()}
        return [
            _follower_stats(standing, links.get(standing), written, now)
            for standing in links or self.safety.followers
        ]

    # --- for the links

    def _note_unanswered(self) -> None:
        if not self._unanswered:
            return
        try:
            self._unasked.add(self._unanswered, doubts_of(self._broker))
        except OSError as error:
            log.error("COPIES: followers that were not asked cannot be noted - %s", error)

    def _new_sender(self, address: str) -> Sender:
        return Sender(
            self._storage,
            self.noted.notes,
            deleted=self._broker.store.deletions.__contains__,
            removed=self._has_removed,
            doubts=self._unasked.doubts(address),
        )

    def _has_removed(self, folder: str, name: str) -> bool:
        """Whether a segment that is not here was removed: the log goes beyond it, and misses nothing."""
        retention = self._broker.retentions.get(folder.removeprefix("topic-"))
        return retention is not None and int(name.removesuffix(".log")) < retention.log.position

    def _log_of(self, folder: str) -> TopicLog | None:
        retention = self._broker.retentions.get(folder.removeprefix("topic-"))
        return retention.log if retention is not None else None

    def _compared(self, address: str) -> None:
        try:
            self._unasked.compared(address)
        except OSError as error:  # it is compared again after the next start
            log.warning("COPIES(%s): %s", address, error)

    def _hand_over(self, owned: Owned) -> None:
        self.hand_over.give_up(owned)
        self._restart()

    def _wake(self) -> None:
        for link in self._links or ():
            link.wake()

    def _heard(self, address: str, asked_at: float) -> None:
        """A follower that keeps our copy has answered what was sent then."""
        assert self._links is not None
        if self.fencing is not None and (self._placing is None or self._links.all_know(address)):
            followers = [link.standing.address for link in self._links]
            self.fencing.heard_follower(address, asked_at, followers)

    def _has_gone(self, life: str) -> None:
        assert self._placing is not None
        self._placing.has_gone(life)
        self._changed()

    def _moved(self, address: str, to: str) -> None:
        try:
            self._unasked.moved(address, to)
        except OSError as error:  # what it has of what was lost here is compared under the old address
            log.error("COPIES(%s): that it has moved to %s cannot be noted - %s", address, to, error)

    # --- standing of the followers

    def _changed(self) -> None:
        """A follower has acknowledged, or came or went: answer those who have waited for it."""
        assert self._links is not None
        with self._rounds.round():
            self._links.settle()
            if refusal := self._say_standing():
                self._rounds.refuse_waiting(refusal)
            self._rounds.release_safe()
        if self._placing is not None:
            self._placing.standing_changed(self._links)
        self._announce()

    def _announce(self) -> None:
        """Tell the nsqlookupds who may adopt: followers in step; when none is, those that were last."""
        lives = [each.life for each in self.safety.followers if each.in_step]
        if self._witnesses is None or not lives or lives == self._announced:
            return
        self._announced = lives
        options = self._options
        self._witnesses.announce_followers(
            lives, options.adopt_after / SECOND, options.restart_grace / SECOND
        )

    def _say_standing(self) -> str | None:
        """Tell the broker, and the log. Returns why publishes are refused."""
        refusal, degraded = self.safety.refusal, self.safety.degraded
        self._broker.refuse_publishing("copies", refusal)
        self._broker.copies_missing = degraded
        said = refusal or degraded
        if said != self._said:
            level = log.warning if said else log.info
            level("COPIES: %s", said or f"{self.safety.copies_in_step} copies are in step")
            self._said = said
        return refusal

    async def _look_for_obstacles(self, witnesses: Witnesses) -> None:
        """Say why our followers could not adopt by themselves."""
        await trio.sleep(FIRST_LOOK)  # the nsqlookupds are being connected
        while True:
            found = obstacle(witnesses.heard())
            if found is not None and found != self.obstacle:
                log.warning("COPIES: nobody adopts the copies of this nsqd by itself: %s", found)
            elif found is None and self.obstacle is not None:
                log.info("COPIES: followers may adopt by themselves now")
            self.obstacle = found
            await trio.sleep(LOOK_INTERVAL)

    async def _check(self) -> None:
        """Count out followers whose acknowledgement is overdue."""
        while True:
            await trio.sleep(CHECK_INTERVAL)
            written = self._broker.store.syncer.written
            if late := self.safety.check(written, trio.current_time()):
                for standing in late:
                    log.error("COPIES(%s): %s; it is out of step", standing.address, standing.state)
                self._changed()


def _follower_stats(standing: Standing, link: FollowerLink | None, written: int, now: float) -> FollowerStats:
    dismissed = link is not None and link.dismissed
    return FollowerStats(
        address=standing.address,
        in_step=standing.in_step,
        state=f"dismissed; {standing.state}" if dismissed else standing.state,
        lag=written - standing.acknowledged if standing.acknowledged >= 0 else None,
        lag_bytes=link.unsent_bytes if link is not None else None,
        lag_seconds=None if (lag := standing.lag(now)) is None else round(lag, 3),
        sent_bytes=link.sent_bytes if link is not None else 0,
        troubles=link.troubles if link is not None else {},
        life=standing.life,
        dismissed=dismissed,
    )


def doubts_of(broker: Broker) -> dict[int, Doubt]:
    """What may have been lost at this start, and a follower that was not asked may have."""
    return {
        retention.log.generation: Doubt(
            # Before the newest snapshot got its name, the log before it was synced.
            retention.log.snapshots[-1] if retention.log.snapshots else 0,
            retention.log.recovered_until,
            broker.lost_messages(name),
        )
        for name, retention in broker.retentions.items()
    }
