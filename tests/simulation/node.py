"""A node: one process, the leader of its own life and a follower of others, with stand-ins on what it has adopted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import attrs

from nsqd.copies.auto_adopt import LONGEST_PAUSE, LOOK_INTERVAL, SHORTEST_PAUSE
from nsqd.copies.fencing import Fencing
from nsqd.log.life import Life
from nsqd.lookup.peer import Followers
from nsqd.replication.fence import Fence
from nsqd.replication.held_copies import CopyState
from nsqd.replication.left_over import goes_further
from nsqd.replication.licence import FEWEST_WITNESSES, Licence, due_at, may_ask
from nsqd.replication.seal import Seal
from nsqd.replication.wire import Bye
from tests.nsqd.replication.simulation.follower import FollowerMachine, StandIn, goes_on
from tests.nsqd.replication.simulation.leader import LeaderMachine, Link
from tests.nsqd.replication.simulation.machine import CHANNELS, Daemon, Machine, Process
from tests.simulation.peers import Peers

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["TCP_PORT", "Node", "NodeDaemon", "NodeFollower", "NodeLeader", "NodeStandIn"]

TCP_PORT: Final = 4150
FIRST_STAND_IN_PORT: Final = 4170


class NodeDaemon(Daemon):
    """Clients connect when a registry has told them of it. `rounds`: whom the fence asks to look."""

    rounds: Rounds | None = None

    def connect_clients(self) -> None:
        """Topics and channels are made, as by an operator."""
        for topic, channels in CHANNELS.items():
            for channel in channels:
                if topic not in self.broker.topics or channel not in self.broker.topics[topic].channels:
                    self.create(channel, topic)

    def begin(self) -> None:
        """The begin of a round."""
        self.broker.advance(self.now, self.wall_ns)
        if self.rounds is not None and self.rounds.at_begin is not None:
            self.rounds.at_begin()

    def round(self) -> None:
        self.begin()
        super().round()
        self._look()  # at once: the process may be stopped before its next turn

    @property
    def life(self) -> str:
        assert self.broker.store.life is not None
        return self.broker.store.life.life_id.hex()


class Rounds:
    """As `nsqd.rounds.Rounds`, as far as the fence needs it."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self.at_begin = None

    @contextmanager
    def round(self) -> Iterator[None]:
        self._daemon.now = self._daemon.world.now
        self._daemon.begin()
        yield
        self._daemon.round()


@attrs.define(eq=False)
class NodeLeader(LeaderMachine):
    """`fencing`: with `--fence=on`. `unfenced`: an operator has started it without."""

    unfenced: bool = False
    peers: Peers | None = None
    fencing: Fencing | None = None
    _announced: list[str] = attrs.field(factory=list)

    @property
    def cluster(self) -> Cluster:
        return self.world  # type: ignore[return-value]

    def run(self) -> Process[None]:
        try:
            yield from super().run()
        finally:
            if self.peers is not None:
                self.peers.close()
            self.peers = self.fencing = None

    def begin_serving(self, daemon: Daemon, life: Life) -> None:
        cluster = self.cluster
        assert isinstance(daemon, NodeDaemon)
        self._announced = []
        if cluster.fence and not self.unfenced:
            daemon.rounds = Rounds(daemon)
            fence = Fence(cluster.adopt_after / 2, len(cluster.registry_names))
            self.fencing = Fencing(daemon.broker, daemon.rounds, fence)  # type: ignore[arg-type]
        cluster.leader_of[life.life_id.hex()] = self
        fields = {
            "broadcast_address": self.name,
            "http_port": TCP_PORT + 1,
            "tcp_port": TCP_PORT,
            "version": "1",
            "life": life.life_id.hex(),
            "incarnation": life.incarnation,
            "replication_address": f"{self.name}:4152",
            "stands_in_for": "",
        }
        self.peers = Peers(
            cluster,
            self.name,
            cluster.registry_names,
            fields,
            daemon.broker.topics,
            cluster.adopt_after,
            self.fencing.heard_registry if self.fencing is not None else None,
        )

    @property
    def is_fenced(self) -> bool:
        return self.daemon is not None and self.daemon.broker.context.refusal_for("fence") is not None

    def heard_follower(self, link: Link, beat: int) -> None:
        if self.fencing is not None:
            self.fencing.heard_follower(link.follower, link.beats[beat], self.followers)

    def round(self) -> None:
        node, daemon = self.host, self.daemon
        assert isinstance(node, Node)
        if node.unread:
            most, node.unread = node.unread, 0
            assert daemon is not None
            daemon.now, daemon.wall_ahead = self.world.now, self.world.wall_ahead
            daemon.finish_some(most)
        super().round()
        assert self.peers is not None
        self._announce(self.peers)
        self.peers.turn()
        self.cluster.checker.check_delivery(self)

    def _announce(self, peers: Peers) -> None:
        """As `LeaderRole._announce`."""
        lives = [each.life for each in self.safety.followers if each.in_step]
        if lives and lives != self._announced:
            self._announced = lives
            peers.announce_followers(Followers(lives, self.cluster.adopt_after, self.cluster.restart_grace))

    def say_goodbye(self, daemon: Daemon) -> Process[None]:
        assert self.peers is not None
        for link in self.links:
            if link.end is not None and link.sender is not None:
                link.end.send(Bye(False))
            link.process.close()
        leaving = self.peers.leaving(for_good=False)
        while goes_on(leaving):
            self.peers.turn()
            yield


@attrs.define(eq=False)
class NodeFollower(FollowerMachine):
    """It adopts by itself."""

    @property
    def cluster(self) -> Cluster:
        return self.world  # type: ignore[return-value]

    @property
    def node(self) -> Node:
        assert isinstance(self.host, Node)
        return self.host

    @property
    def adopting(self) -> int:
        """Adoptions that are in progress."""
        return sum(each.seal is not None and each.seal.owned is None for each in self.states.values())

    def begin_serving(self) -> None:
        self.identity = bytes.fromhex(self.node.leading.life or "")
        self.begin(self._adopt_by_itself())

    def new_stand_in(self, life: str) -> StandIn:
        taken = {each.port for each in self.stand_ins.values() if isinstance(each, NodeStandIn)}
        port = next(port for port in range(FIRST_STAND_IN_PORT, TCP_PORT + 1000) if port not in taken)
        return NodeStandIn(self, life, port=port)

    def _adopt_by_itself(self) -> Process[None]:
        """As `AutoAdopt.run`."""
        cluster = self.cluster
        started = cluster.now
        tried_until: dict[str, float] = {}
        while True:
            until = cluster.now + min(LOOK_INTERVAL, cluster.adopt_after / 4)
            while cluster.now < until:
                yield
            for life, state in list(self.states.items()):
                now = cluster.now
                due = due_at(state, started, cluster.adopt_after, cluster.restart_grace)
                if due is None or due > now or tried_until.get(life, 0.0) > now:
                    continue
                if may_ask(self.states.values()) and not (yield from self._try(state, started)):
                    tried_until[life] = cluster.now + cluster.chance.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)

    def _try(self, state: CopyState, started: float) -> Process[bool]:
        """As `AutoAdopt._try`. Whether it is adopted."""
        life, registries, peers = state.note.life, state.note.registries, self.node.leading.peers
        if peers is None:  # it is about to stop
            return False
        asked = registries >= FEWEST_WITNESSES
        answers = (yield from peers.grants(life)) if asked else []
        licence = Licence(tuple(answers), registries)
        refusal = licence.refusal
        if refusal is None:
            self.cluster.tell(
                f"{self.name}: {state.note.name}, {life[:4]}, is silent, and {licence.yes} of {registries} "
                "registries agree"
            )
            self.cluster.by_itself.add((self.name, life))
            refusal = yield from self.adopt(life, force=False)
            if refusal is None:
                state.undecided = ""
                return True
            self.cluster.by_itself.discard((self.name, life))
        if asked:
            yield from peers.release(life)
            if (yield from self._adopts_left_over(state, started)):
                return True
        if refusal != state.undecided:
            self.cluster.tell(f"{self.name} does not adopt {life[:4]}: {refusal}")
            state.undecided = refusal
        return False

    def _adopts_left_over(self, state: CopyState, started: float) -> Process[bool]:
        """As `AutoAdopt._adopts_left_over` and `StandIns.adopt_left_over`."""
        cluster, life = self.cluster, state.note.life
        away = cluster.now - (started if state.beat_at is None else state.beat_at)
        if away < max(cluster.adopt_after, cluster.restart_grace):
            return False
        if any(each.connected and each.note.name == state.note.name for each in self.states.values()):
            return False
        others = yield from self.ask_others(state.note)
        served = [owned for found, owned in others if found.sealed and owned]
        for owned in served:
            further = goes_further(state.storage, owned)
            if not further or state.seal is not None or self.states.get(life) is not state:
                return False
            cluster.tell(f"{self.name}: what is adopted of {life[:4]} misses some of {', '.join(further)}")
        if not served:
            return False
        yield from self.adopt(life, force=True)
        return True


@attrs.define(eq=False)
class NodeStandIn(StandIn):
    """It is registered, as every nsqd."""

    port: int = 0
    _peers: Peers | None = None
    _farewell: Process[None] | None = None

    def turn(self) -> None:
        super().turn()
        daemon = self.daemon
        if daemon is None:
            return
        if self._peers is None:
            assert isinstance(daemon, NodeDaemon)
            life = daemon.broker.store.life
            assert life is not None
            cluster: Cluster = self.follower.world  # type: ignore[assignment]
            fields = {
                "broadcast_address": self.follower.name,
                "http_port": self.port + 1000,
                "tcp_port": self.port,
                "version": "1",
                "life": life.life_id.hex(),
                "incarnation": life.incarnation,
                "replication_address": "",
                "stands_in_for": self.life,
            }
            self._peers = Peers(
                cluster,
                self.follower.name,
                cluster.registry_names,
                fields,
                daemon.broker.topics,
                cluster.adopt_after,
            )
        self._peers.turn()

    def _retire(self) -> None:
        """It says first that it is gone for good."""
        if self._peers is not None:
            if self._farewell is None:
                self._farewell = self._peers.leaving(for_good=True)
            if goes_on(self._farewell):
                return
        super()._retire()

    def end(self) -> None:
        if self._peers is not None:
            self._peers.close()
        self._peers = self._farewell = None
        super().end()


@attrs.define(eq=False)
class Node(Machine):
    """`leading`, `following`: the two roles of its process. `gone`: it never comes back."""

    leading: NodeLeader = attrs.field(init=False)
    following: NodeFollower = attrs.field(init=False)
    gone: bool = False
    unread: int = 0
    """So many messages each client has finished while the process was stopped."""

    def run(self) -> Process[None]:
        """First the followers are asked; leaders are served when the own data is."""
        with contextlib.ExitStack() as at_the_end:
            at_the_end.callback(self.world.network.process_ended, self.name)
            leading = self.leading.run()
            at_the_end.callback(leading.close)
            following: Process[None] | None = None
            self.unread = 0
            while goes_on(leading):
                if following is None and self.leading.daemon is not None:
                    following = self.following.run()
                    at_the_end.callback(following.close)
                if following is not None:
                    next(following)
                yield

    def lose_power(self) -> None:
        self.leading.lose_power()
        self.following.lose_power()

    def lose_disk(self) -> None:
        self.leading.lose_disk()
        self.following.lose_disk()

    def daemon_at(self, port: int) -> Daemon | None:
        """Who listens for clients on this port."""
        if self.process is None:
            return None
        if port == TCP_PORT:
            return self.leading.daemon
        stand_ins = self.following.stand_ins.values()
        return next(
            (each.daemon for each in stand_ins if isinstance(each, NodeStandIn) and each.port == port), None
        )

    @property
    def is_busy(self) -> bool:
        """Whether it serves what it has adopted, or is about to: then its disk must not be wiped, too."""
        seals = map(Seal.read, self.following.disk.values())
        return any(seal is not None and not seal.retired for seal in seals)
