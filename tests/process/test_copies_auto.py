"""Followers that nodes choose by themselves, out of those that a registry knows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.copies import copy_of, in_step, received
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.ports import free_port
from tests.process.raw import RawClient
from tests.process.waiting import wait_until
from tests.timing import patience

pytestmark = pytest.mark.process


@contextlib.contextmanager
def running(path: Path, count: int, *flags: str) -> Iterator[list[Daemon]]:
    """Nodes that choose followers. Their broadcast addresses make them nodes of different hosts."""
    with contextlib.ExitStack() as stack:
        lookupd = stack.enter_context(LookupDaemon())
        lookupd.start()
        nodes = []
        for number in range(1, count + 1):
            folder = path / f"node{number}"
            folder.mkdir()
            own = (
                f"--lookupd-tcp-address={lookupd.tcp_address}",
                f"--broadcast-address=127.0.0.{number}",
                f"--replication-address={HOST}:{free_port()}",
                "--replicate-to=auto",
                "--ack-copies=2",
            )
            nodes.append(stack.enter_context(Daemon(folder, (*own, *flags))))
            nodes[-1].start()
        wait_in_step(*nodes)
        yield nodes


def life_of(node: Daemon) -> str:
    return (node.data_path / "nsqd.life").read_text().split()[4]


def followers_of(node: Daemon) -> list[str]:
    """The lives of those that are not dismissed."""
    followers: list[dict[str, Any]] = node.stats()["copies"]["followers"]
    return [each["life"] for each in followers if not each["dismissed"]]


def wait_in_step(*nodes: Daemon) -> None:
    for node in nodes:
        wait_until(lambda node=node: in_step(node), 20.0, "it has its copies", describe=node.log_end)


def wait_for(node: Daemon, follower: Daemon) -> None:
    """Until this is its follower, and has everything."""
    life = life_of(follower)
    wait_until(
        lambda: followers_of(node) == [life] and in_step(node),
        20.0,
        "it has this follower",
        describe=node.log_end,
    )
    wait_until(lambda: copy_of(life_of(node), follower).get("complete", False), 10.0, "the copy is complete")


def publish(node: Daemon, count: int) -> None:
    with RawClient.connect(node.tcp_port) as client:
        for number in range(count):
            client.pub("orders", b"order %d" % number)


@pytest.mark.soak
def test_each_node_has_a_follower_and_gets_another_one_for_one_that_is_gone(tmp_path: Path) -> None:
    with running(tmp_path, 3, f"--replace-after={patience(3):.0f}s") as nodes:
        leader, life = nodes[0], life_of(nodes[0])
        by_life = {life_of(node): node for node in nodes}
        (follower,) = followers_of(leader)
        lost = by_life[follower]
        (spare,) = set(nodes) - {leader, lost}
        publish(leader, 20)

        lost.kill()
        wait_for(leader, spare)
        wait_for(spare, leader)

        old = lost.data_path / "copies" / life
        assert old.exists()
        lost.start()
        wait_until(lambda: not old.exists(), 30.0, "its old copy goes", describe=leader.log_end)
        wait_until(
            lambda: len(leader.stats()["copies"]["followers"]) == 1, 10.0, "nobody is dismissed any more"
        )
        wait_for(leader, spare)


def test_a_choice_stays_over_restarts_and_a_wiped_disk_is_copied_to_at_once(tmp_path: Path) -> None:
    with running(tmp_path, 2) as (leader, follower):
        publish(leader, 20)
        before = life_of(follower)
        note = leader.data_path / "nsqd.followers"
        assert before in note.read_text()
        leader.kill()
        follower.kill()
        follower.start()
        leader.start()
        wait_for(leader, follower)
        assert life_of(follower) == before

        follower.kill()
        shutil.rmtree(follower.data_path)
        follower.data_path.mkdir()
        follower.start()
        wait_for(leader, follower)
        assert life_of(follower) != before
        assert before not in note.read_text()
        publish(leader, 1)


def test_a_stand_in_chooses_a_follower_too_which_keeps_nothing_when_it_is_empty(tmp_path: Path) -> None:
    ports = sorted((free_port(), free_port()))
    with running(tmp_path, 3, f"--stand-in-ports={ports[0]}-{ports[1]}") as nodes:
        leader, life = nodes[0], life_of(nodes[0])
        leader.create_channel("orders", "audit")
        publish(leader, 20)
        follower = next(node for node in nodes if life_of(node) in followers_of(leader))
        (third,) = set(nodes) - {leader, follower}
        before = copies_of(third)
        leader.kill()
        wait_until(lambda: not copy_of(life, follower)["connected"], 10.0, "it is missed")
        assert follower.request("POST", f"/replicas/adopt?life={life}") == (200, b"")
        wait_until(
            lambda: [complete for each, complete in copies_of(third).items() if each not in before] == [True],
            20.0,
            "the stand-in has a copy",
            describe=follower.log_end,
        )
        assert len(received(copy_of(life, follower)["stand_in_port"], "orders", "audit", 20)) == 20
        wait_until(
            lambda: copies_of(third).keys() == before.keys(), 20.0, "it goes", describe=follower.log_end
        )


def copies_of(node: Daemon) -> dict[str, bool]:
    """The lives of which it has copies, and whether these are complete."""
    return {each["life"]: each["complete"] for each in node.stats()["copies"]["held"]}
