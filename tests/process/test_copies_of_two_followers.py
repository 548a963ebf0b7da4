"""Followers that know one another, a leader that comes back, and copies that go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.daemon import HOST, Daemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.test_copies import listening, received
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


@attrs.define(eq=False)
class Trio:
    """A leader, and two followers."""

    leader: Daemon
    followers: list[Daemon]

    def start(self) -> None:
        for follower in self.followers:
            follower.start()
        self.leader.start()
        self.leader.create_channel("orders", "audit")
        self.wait_in_step(3)

    def wait_in_step(self, copies: int) -> None:
        wait_until(
            lambda: self.leader.stats()["copies"]["in_step"] == copies,
            20.0,
            f"{copies} copies are in step",
            describe=self.leader.log_end,
        )

    def publish(self, what: str, count: int) -> list[bytes]:
        bodies = [b"%s %d" % (what.encode(), number) for number in range(count)]
        with RawClient.connect(self.leader.tcp_port) as client:
            for body in bodies:
                client.pub("orders", body)
        return bodies

    def kill_leader(self) -> str:
        """Returns its life."""
        life = next(iter(copies(self.followers[-1])))
        self.leader.kill()
        for follower in self.followers:
            if follower.process is not None:
                wait_until(lambda each=follower: not copies(each)[life]["connected"], 10.0, "it is missed")
        return life


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Trio]:
    ports = [free_port(), free_port()]
    flags = ["--ack-copies=2", "--replica-timeout=1s"]
    daemons = []
    for number, port in enumerate(ports):
        (tmp_path / f"follower{number}").mkdir()
        flags.append(f"--replicate-to={HOST}:{port}")
        daemons.append(
            Daemon(
                tmp_path / f"follower{number}",
                (f"--replication-address={HOST}:{port}", stand_in_ports()),
            )
        )
    (tmp_path / "leader").mkdir()
    with daemons[0], daemons[1], Daemon(tmp_path / "leader", tuple(flags)) as leader:
        yield Trio(leader, daemons)


def stand_in_ports() -> str:
    """The range between two free ports, whichever is the lower one."""
    first, second = sorted((free_port(), free_port()))
    return f"--stand-in-ports={first}-{second}"


def copies(follower: Daemon) -> dict[str, dict[str, Any]]:
    """What it holds, by life."""
    return {each["life"]: each for each in follower.stats()["copies"]["held"]}


def adopt(follower: Daemon, life: str, *, force: bool = False) -> tuple[int, bytes]:
    answer: tuple[int, bytes] = follower.request(
        "POST", f"/replicas/adopt?life={life}" + "&force=true" * force
    )
    return answer


def test_the_one_that_adopts_fetches_what_the_other_has_more(nodes: Trio) -> None:
    nodes.start()
    first, second = nodes.followers
    early = nodes.publish("early", 20)
    first.kill()
    late = nodes.publish("late", 20)
    life = nodes.kill_leader()
    first.start()
    assert adopt(first, life) == (200, b"")
    assert received(listening(first), "orders", "audit", 40) == [*early, *late]
    status, body = adopt(second, life)
    assert (status, b"has adopted its copy" in body) == (409, True)


def test_two_stand_ins_of_one_life_become_one(nodes: Trio) -> None:
    nodes.start()
    bodies = nodes.publish("order", 20)
    life = nodes.kill_leader()
    # The one with the lower life keeps what both have; it is the first here, so that nobody waits for the next look.
    first, second = sorted(nodes.followers, key=lambda each: (each.data_path / "nsqd.life").read_bytes()[20:])
    assert adopt(first, life) == (200, b"")
    listening(first)
    assert adopt(second, life)[0] == 409
    assert adopt(second, life, force=True) == (200, b"")
    wait_until(
        lambda: copies(second)[life]["stand_in_port"] is None and not has_messages(second, life),
        30.0,
        "the second one gives up, and is empty",
        describe=lambda: said(second),
    )
    assert received(listening(first), "orders", "audit", 20) == bodies


def test_a_leader_that_comes_back_says_what_was_finished(nodes: Trio) -> None:
    nodes.start()
    first, second = nodes.followers
    bodies = nodes.publish("order", 20)
    for follower in nodes.followers:
        follower.kill()
    assert received(nodes.leader.tcp_port, "orders", "audit", 12) == bodies[:12]
    wait_until(lambda: nodes.leader.unfinished("orders", "audit") == 8, 10.0, "all finishes have arrived")
    nodes.leader.kill()
    for follower in nodes.followers:
        follower.start()
    (life,) = copies(first)
    assert adopt(first, life) == (200, b"")
    port = listening(first)
    nodes.leader.start()
    wait_until(
        lambda: any("starting anew" in line for line in nodes.leader.lines), 20.0, "the leader hears of it"
    )
    nodes.wait_in_step(3)
    assert received(port, "orders", "audit", 8) == bodies[12:]
    # Nothing is left of the old life: the second one's copy went when the new one was complete.
    for follower in (second, first):
        wait_until(
            lambda each=follower: not (each.data_path / "copies" / life).exists(),
            20.0,
            "the old copy is removed",
            describe=lambda each=follower: said(each),
        )
    assert len(copies(first)) == len(copies(second)) == 1


def test_a_node_that_leaves_hands_its_messages_over(nodes: Trio) -> None:
    nodes.start()
    bodies = nodes.publish("order", 20)
    nodes.leader.request("POST", "/pub?topic=orders&defer=3000", b"later")
    life = next(iter(copies(nodes.followers[0])))
    assert nodes.leader.request("POST", "/drain?hand_over=true") == (200, b"")
    assert nodes.leader.wait() == 0
    assert any("it has taken over all messages" in line for line in nodes.leader.lines), said(nodes.leader)
    assert received(listening(nodes.followers[0]), "orders", "audit", 21) == [*bodies, b"later"]
    assert not copies(nodes.followers[1])[life]["adopted"]
    nodes.leader.start()  # it was a mistake: it is another life
    nodes.wait_in_step(3)
    assert nodes.leader.unfinished("orders", "audit") == 0


def test_nothing_is_handed_over_without_a_follower_in_step(nodes: Trio) -> None:
    nodes.leader.start()
    status, body = nodes.leader.request("POST", "/drain?hand_over=true")
    assert (status, b"no follower is in step" in body) == (409, True)
    nodes.leader.request("POST", "/pub?topic=orders", b"it goes on")


def test_a_copy_is_removed_by_command(nodes: Trio) -> None:
    nodes.start()
    nodes.publish("order", 5)
    follower = nodes.followers[0]
    (life,) = copies(follower)
    forget = f"/replicas/forget?life={life}"
    assert follower.request("POST", forget + "&force=true")[0] == 409  # its leader is there
    nodes.kill_leader()
    status, body = follower.request("POST", forget)
    assert (status, b"nowhere else" in body) == (409, True)
    assert follower.request("POST", forget + "&force=true") == (200, b"")
    assert follower.request("POST", forget)[0] == 404
    assert list((follower.data_path / "copies").iterdir()) == []
    nodes.leader.start()  # and it is copied anew
    nodes.wait_in_step(3)
    assert len(copies(follower)) == 1


def said(daemon: Daemon) -> str:
    """Its log without the requests."""
    return "\n".join(line for line in daemon.lines if " 200 GET /" not in line)


def has_messages(follower: Daemon, life: str) -> bool:
    return any((follower.data_path / "copies" / life).glob("topic-*"))
