"""What the daemon sees of copies: up to three roles, and when each of them begins."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import trio

from nsqd.broker import Broker
from nsqd.copies.as_follower import FollowerRole
from nsqd.copies.as_leader import LeaderRole
from nsqd.copies.as_stand_in import StandInRole
from nsqd.copies.durability import Copied
from nsqd.copies.placing import Nodes
from nsqd.copies.secret import read_secret
from nsqd.log.life import Life
from nsqd.log.storage import Storage
from nsqd.options import NsqdOptions
from nsqd.replication.frame_stream import Identity
from nsqd.replication.keep import CopyNote
from nsqd.replication.licence import Witnesses
from nsqd.replication.other_followers import OtherFollowers
from nsqd.replication.transport import Transport
from nsqd.replication.wire import START_SIZE
from nsqd.rounds import Rounds
from nsqd.stats.copies import CopiesStats
from nsqkit.audit import AuditTrail
from nsqkit.certificates import TlsFiles
from nsqkit.logging import get_logger

__all__ = ["Copies", "NotServed"]

log = get_logger("copies")

NO_LIFE: Final = (
    "the disk was full at the start, and the start could not be noted; no copies until the next start"
)


class NotServed(Exception):
    """The data path is a copy, and should not be, or the other way round; the text is for the operator."""


class Copies:
    """In order: `load_certificates`, `make_storage`, `ask_followers`, then the broker recovers, `durability`, `attach`
    when there are rounds; `hand_over_before_serving` if it is `adopted`, or else `listen_on` and `run`.

    `leader`, `follower`, `stand_in`: the roles, None when this nsqd does not play them. `SecretError`.
    """

    def __init__(
        self,
        options: NsqdOptions,
        data_path: Path,
        restart: Callable[[], None],
        trail: AuditTrail | None = None,
    ) -> None:
        self._options = options
        self._restart = restart
        self._trail = trail
        self._data_path = data_path
        self._transport = Transport()
        self._secret = read_secret(options.replication_secret_file)
        self.leader: LeaderRole | None = None
        self.follower: FollowerRole | None = None
        self.stand_in: StandInRole | None = None

    # --- start

    def load_certificates(self) -> None:
        """Create the TLS contexts, if they are configured. `TlsConfigError`."""
        options = self._options
        if options.replication_tls:
            self._transport = Transport.with_tls(options.tls_cert, options.tls_key, options.tls_root_ca_file)

    @property
    def tls_files(self) -> list[TlsFiles]:
        """Those of the connections to and from other nsqds, to be read again when they change."""
        return self._transport.tls_files

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
        self.leader = LeaderRole(self._options, storage)
        return self.leader.noted

    async def ask_followers(self) -> None:
        """Before the recovery: restore what the disk has lost and a follower has; hear of an adoption. `OSError`."""
        if self.leader is None or Life.read(self._storage) is None:
            return
        try:
            life = Life.begin(self._storage)  # a follower does not take two starts for one
        except OSError as error:
            log.warning("COPIES: followers are not asked before the start - %s", error)
            return
        self._told_identity = self._identity(life)
        await self.leader.ask_followers(self._told_identity, self._transport)

    def durability(self, broker: Broker) -> Copied | None:
        """After the recovery. What answers to publishers wait for; None when it is the own disk only."""
        self._broker = broker
        return self.leader.durability(broker) if self.leader is not None else None

    def attach(self, rounds: Rounds) -> None:
        """Before anything is delivered or published. `OSError`."""
        options, broker, life = self._options, self._broker, self._broker.store.life
        identity = self._identity(life) if life is not None else None
        if options.stand_in:
            others = OtherFollowers(identity, self._transport.connector()) if identity is not None else None
            self.stand_in = StandInRole(self._storage, broker, rounds, others, self._restart)
        if identity is None:
            if options.replicate_to or options.replication_address:
                log.error("COPIES: %s", NO_LIFE)
            if self.leader is not None and options.fence == "on":
                # Nobody can be asked whether another nsqd serves this.
                broker.fence(NO_LIFE)
            return
        if options.replication_address:
            self.follower = FollowerRole(
                options,
                self._data_path,
                identity,
                self._transport,
                self._trail,
                unclean=not broker.store.clean,
            )
        if self.leader is not None:
            self.leader.attach(identity, rounds, self._transport, self._restart)

    def _identity(self, life: Life) -> Identity:
        name = f"{self._options.broadcast_address}:{self._options.broadcast_tcp_port}"
        return Identity(life.life_id, life.incarnation, secrets.token_bytes(START_SIZE), name, self._secret)

    @property
    def adopted(self) -> bool:
        """A follower said before the recovery that it has adopted our copy."""
        return self.leader is not None and self.leader.adopted

    async def hand_over_before_serving(self) -> None:
        """Give up what the follower's stand-in has. `OSError`. The daemon must be started anew."""
        assert self.leader is not None
        await self.leader.hand_over_before_serving(self._told_identity, self._transport)

    def listen_on(self, listeners: Sequence[trio.SocketListener]) -> None:
        if self.follower is not None:
            self.follower.listen_on(listeners)

    # --- while it runs

    async def run(self, witnesses: Witnesses, nodes: Nodes) -> None:
        """Serve leaders, and keep followers supplied, until cancelled. `witnesses`, `nodes`: of the nsqlookupds."""
        async with trio.open_nursery() as nursery:
            if self.leader is not None:
                nursery.start_soon(self.leader.run, witnesses, nodes)
            if self.follower is not None:
                nursery.start_soon(self.follower.run, witnesses)
            if self.stand_in is not None:
                nursery.start_soon(self.stand_in.watch_others)
            await trio.sleep_forever()

    def set_registries(self, addresses: Collection[str]) -> None:
        """These nsqlookupds are configured now. Followers hear of their number when they connect anew."""
        if self.leader is not None and self.leader.fencing is not None:
            self.leader.fencing.set_registries(addresses)

    @property
    def hand_over_refusal(self) -> str | None:
        """Why no follower can take over what is here."""
        if self.stand_in is not None:
            return "a stand-in is not handed over"
        return self.leader.hand_over_refusal if self.leader is not None else "no follower is in step"

    def stats(self) -> CopiesStats | None:
        """None when there is nothing to tell."""
        leader, follower = self.leader, self.follower
        if leader is None and follower is None:
            return None
        return CopiesStats(
            wanted=leader.wanted if leader is not None else 1,
            in_step=min(leader.safety.copies_in_step, leader.wanted) if leader is not None else 1,
            trouble=leader.trouble if leader is not None else "",
            restored_bytes=leader.restored_bytes if leader is not None else 0,
            published_again=leader.published_again if leader is not None else 0,
            adoptions=follower.stand_ins.adoptions if follower is not None else 0,
            followers=leader.stats() if leader is not None else [],
            held=follower.stats() if follower is not None else [],
            adopt=self._options.adopt,
            obstacle=leader.obstacle if leader is not None else None,
            scrub=leader.scrubbing.stats() if leader is not None and leader.scrubbing is not None else None,
        )

    # --- stop

    async def stop(self, *, hand_over: bool, drained: bool) -> bool:
        """Take no leader any more, and send what there is to send to followers, in bounded time.

        `hand_over`: one of them is to take over what is here. Whether it has. `drained`: there is nothing.
        """
        if self.follower is not None:
            await self.follower.stop()
        if self.leader is None:
            return False
        return await self.leader.stop(hand_over=hand_over, empty=drained and self.stand_in is not None)

    def retire(self) -> None:
        """What was drained was a stand-in, perhaps, and is empty. `OSError`."""
        if self.stand_in is not None:
            self.stand_in.retire()

    def close(self) -> None:
        if self.follower is not None:
            self.follower.close()
