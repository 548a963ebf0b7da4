"""What must hold in a cluster, beside what holds for one leader and its followers (`Checker` there): by name

R6    With the fence, a leader hands out nothing that its stand-in has, from when that begins to serve. (But for one
      that comes back when its follower is away, and half of the registries have been started since: nobody knows.)
R7    No adoption by itself without grants of more than half of the leader's registries; each of them up for
      `--adopt-after`, without a word of the life for so long, for a follower that the leader has announced, and for one
      at a time. Nor while a follower that can be asked has a link to the leader that is up and echoed.
R15   Without the fence, what is delivered does not depend on registries.
R16   A leader that has said that it will be started again is not adopted before `--restart-grace`.
brake At most one adoption is in progress in a node; none is granted when more than one node, and more than a third of
      them, are silent as far as that registry knows.
alive When all faults are over, the copy of a leader that is gone for good is adopted by itself in bounded time, and no
      leader is fenced that can hear its followers, or registries that know of no adoption.

What registries know is noted where it comes in (`registry.py`), and judged anew here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from nsqd.replication.seal import Seal
from nsqlookupd.registry import ProducerInfo
from tests.nsqd.replication.simulation.checker import Checker, Violation, bodies, tag
from tests.nsqd.replication.simulation.machine import Daemon

if TYPE_CHECKING:
    from nsqkit.wire import Message as Delivered
    from tests.nsqd.replication.simulation.leader import LeaderMachine
    from tests.simulation.cluster import Cluster
    from tests.simulation.node import NodeFollower
    from tests.simulation.registry import Known, RegistryMachine

__all__ = ["ClusterChecker"]

ACTED_ON: Final = 15.0  # seconds, in which a follower uses what was granted: it asks others first
ANSWERS: Final = 10.0  # seconds without a fault, after which a follower is sure to be asked


@attrs.define(eq=False)
class ClusterChecker(Checker):
    """`served`: by life, the stand-in's owner and what it had when it began, of adoptions by themselves."""

    served: dict[str, tuple[str, set[bytes]]] = attrs.field(factory=dict)

    @property
    def cluster(self) -> Cluster:
        return self.world  # type: ignore[return-value]

    # --- registries

    def granted(self, registry: RegistryMachine, follower: ProducerInfo, life: str) -> None:
        """A registry says yes."""
        cluster = self.cluster
        now, known = cluster.now, registry.known.get(life)
        what = f"{registry.name} grants {life[:4]} to {follower.broadcast_address}"
        if now - registry.started < cluster.adopt_after or known is None:
            raise Violation("R7", f"{what}, and is up for {now - registry.started:.1f} s only")
        if follower.life not in known.followers:
            raise Violation("R7", f"{what}, which is not on the list")
        silence = now - known.heard_at
        if silence < cluster.adopt_after:
            raise Violation("R7", f"{what}, and has heard of it {silence:.1f} s ago")
        if known.left and silence < cluster.restart_grace:
            raise Violation("R16", f"{what}, and it was stopped {silence:.1f} s ago, to be started again")
        if known.granted is not None and known.granted[0] != follower.life:
            holder = registry.known.get(known.granted[0])
            if holder is not None and now - holder.heard_at < cluster.adopt_after:
                raise Violation("R7", f"{what}, and has granted it to {holder.info.broadcast_address}")
        silent, nodes = self._silent(registry)
        if silent > max(1, nodes // 3):
            raise Violation("brake", f"{what}, and {silent} of {nodes} nodes are silent")

    def _silent(self, registry: RegistryMachine) -> tuple[int, int]:
        """How many nodes are silent, and how many there are: as the registry must know."""
        cluster, lives = self.cluster, registry.known.values()
        # It counts the time only in which it ran.
        behind = cluster.now - registry.started - registry.witness.watched_seconds
        served = {known.info.stands_in_for for known in lives}
        last: dict[str, Known] = {}
        for known in lives:
            before = last.get(known.info.node)
            if not known.info.stands_in_for and (before is None or before.heard_at <= known.heard_at):
                last[known.info.node] = known
        judged = [known for known in last.values() if known.info.life not in served]
        silent = [
            known for known in judged if cluster.now - known.heard_at - behind >= known.adopt_after + 0.01
        ]
        return len(silent), len(judged)

    # --- adoption

    def adopts(self, follower: NodeFollower, life: str) -> None:
        """A follower is about to seal a copy, by itself."""
        cluster = self.cluster
        now, leader = cluster.now, cluster.leader_of[life]
        what = f"{follower.name} adopts {life[:4]} of {leader.name}"
        agreed = {
            registry.name
            for registry in cluster.registries
            if not registry.original
            and (granted := cluster.grants.get((registry.name, life))) is not None
            and granted[0] == follower.identity.hex()
            and now - granted[1] <= ACTED_ON
        }
        if 2 * len(agreed) <= len(cluster.registries):
            raise Violation(
                "R7", f"{what}, and {sorted(agreed)} of {len(cluster.registries)} registries agree"
            )
        if follower.adopting:
            raise Violation("brake", f"{what}, while another adoption is in progress")
        for other in cluster.followers:
            if self._is_linked(follower, other, life, leader):
                raise Violation("R7", f"{what}, and the link from there to {other.name} is up")

    def _is_linked(
        self, follower: NodeFollower, other: NodeFollower, life: str, leader: LeaderMachine
    ) -> bool:
        """Whether this follower hears the leader, is heard there, and can be asked."""
        cluster, now = self.cluster, self.cluster.now
        state = other.states.get(life)
        if state is None or not state.connected or state.beat_at is None or not other.runs or not leader.runs:
            return False
        link = next((each for each in leader.links if each.follower == other.name), None)
        if link is None or link.end is None or now - link.end.heard_at > 3.0 or now - state.beat_at > 3.0:
            return False
        if other is follower:
            return True
        # One that was connected after the question is no fault: asking and sealing are two steps.
        was_asked = other.connected_at[life] < follower.asked_at[life]
        return was_asked and cluster.is_calm(follower.name, other.name, ANSWERS)

    def adopted(self, life: str, daemon: Daemon) -> None:
        super().adopted(life, daemon)
        seal = Seal.read(daemon.memory)
        assert seal is not None
        if (seal.owner, life) in self.cluster.by_itself and life not in self.served:
            has = bodies(daemon.memory) if any((seal.owned or {}).values()) else set()
            self.served[life] = (seal.owner, has)

    # --- deliveries

    def delivered(self, daemon: Daemon, channel: str, delivered: Delivered) -> None:
        super().delivered(daemon, channel, delivered)
        if not self.cluster.fence:
            return
        for leader in self.cluster.leaders:
            if leader.daemon is daemon and leader.life in self.served and not leader.unfenced:
                owner, has = self.served[leader.life]
                body = tag(delivered.body)
                message = self.messages[body]
                known = self.cluster.is_known_to_be_adopted(leader)
                if body in has and owner not in message.unasked and not message.again and known:
                    raise Violation(
                        "R6", f"{leader.name} delivers {body!r}, which its stand-in at {owner} has"
                    )

    def wiped_follower(self, follower: NodeFollower) -> None:
        """With the disk goes what it would have told the leader."""
        self.served = {life: served for life, served in self.served.items() if served[0] != follower.name}

    def check_delivery(self, leader: LeaderMachine) -> None:
        """After a round: a consumer that is ready waits for nothing, whatever registries do."""
        daemon, cluster = leader.daemon, self.cluster
        if (
            daemon is None
            or cluster.fence
            or not daemon.run_jobs
            or any(each.runs for each in cluster.registries)
        ):
            return
        for (topic, name), client in daemon.clients.items():
            channel = daemon.channel(name, topic)
            if channel.depth and len(client.in_flight) < cluster.window:
                raise Violation(
                    "R15",
                    f"{leader.name} does not deliver from {topic}/{name}, while there are no registries",
                )
