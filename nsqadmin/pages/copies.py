"""The copies on the page of a node: its own ones on other nodes, those of other nodes that it holds, and stand-ins.

A copy can be adopted with a button only if nsqd would do it as things are shown: it is complete, and its leader is not
connected. `--replicate-to` and copies name nodes by other addresses than the console does: a leader is found by its TCP
address, a stand-in by its port on the host that holds the copy.
"""

from __future__ import annotations

from attrs import define

from nsqadmin.addresses import join_host_port
from nsqadmin.cluster.snapshot import ClusterSnapshot, NodeSnapshot
from nsqadmin.model import Copies, Follower, HeldCopy
from nsqadmin.pages.action_buttons import ActionButton, adopt_button
from nsqadmin.pages.badges import Badge, copy_badges
from nsqadmin.pages.page_request import PageRequest
from nsqadmin.text import bytes_text, duration_text

__all__ = ["CopiesPanel", "FollowerRow", "HeldRow", "copies_panel", "leaders_by_stand_in", "stand_in_badges"]


@define(frozen=True)
class FollowerRow:
    """Another node that keeps a copy of this one."""

    follower: Follower
    badge: Badge
    sent: str
    lag_age: str
    """For how long it owes an acknowledgement; empty below a second."""


@define(frozen=True)
class HeldRow:
    """A copy of another node."""

    copy: HeldCopy
    path: str
    """The page of its leader; empty if that is not listed."""
    badges: list[Badge]
    size: str
    stand_in: str
    """Its TCP address; empty if none runs."""
    stand_in_path: str
    """Its page; empty if it is not listed."""
    adopt: ActionButton | None


@define(frozen=True)
class CopiesPanel:
    """All copies that have to do with a node."""

    copies: Copies
    followers: list[FollowerRow]
    held: list[HeldRow]


def copies_panel(request: PageRequest, node: NodeSnapshot) -> CopiesPanel | None:
    """None for a node that neither has copies elsewhere nor holds any."""
    copies = node.copies
    if copies is None:
        return None
    paths = {
        each.node.tcp_address: request.node_url(each.address) for each in request.snapshot.nodes.values()
    }
    return CopiesPanel(
        copies,
        [_follower_row(follower) for follower in copies.followers],
        [_held_row(request, node, copy, paths) for copy in copies.held],
    )


def leaders_by_stand_in(snapshot: ClusterSnapshot) -> dict[str, str]:
    """For whom each stand-in serves: the name of the leader by the TCP address of the stand-in."""
    return {
        _stand_in_address(node, copy): copy.name
        for node in snapshot.nodes.values()
        for copy in (node.copies.held if node.copies is not None else ())
        if copy.stand_in_port is not None
    }


def stand_in_badges(node: NodeSnapshot, leaders: dict[str, str]) -> list[Badge]:
    """The badge of a node that is a stand-in. `leaders`: see `leaders_by_stand_in`."""
    leader = leaders.get(node.node.tcp_address)
    if leader is None:
        return []
    return [Badge(f"stand-in for {leader}", title="It serves the copy of that node until it is empty")]


def _stand_in_address(node: NodeSnapshot, copy: HeldCopy) -> str:
    """Of the process that serves the copy which this node holds; empty if there is none."""
    if copy.stand_in_port is None:
        return ""
    return join_host_port(node.node.broadcast_address, copy.stand_in_port)


def _follower_row(follower: Follower) -> FollowerRow:
    badge = Badge("in step", "good") if follower.in_step else Badge("out of step", "warn")
    age = follower.lag_seconds or 0.0
    return FollowerRow(
        follower, badge, bytes_text(follower.sent_bytes), duration_text(age) if age >= 1 else ""
    )


def _held_row(request: PageRequest, node: NodeSnapshot, copy: HeldCopy, paths: dict[str, str]) -> HeldRow:
    stand_in = _stand_in_address(node, copy)
    adoptable = node.problem is None and copy.complete and not copy.connected and not copy.adopted
    return HeldRow(
        copy,
        paths.get(copy.name, ""),
        copy_badges(copy),
        bytes_text(copy.bytes),
        stand_in,
        paths.get(stand_in, ""),
        adopt_button(request, node.node, copy) if adoptable else None,
    )
