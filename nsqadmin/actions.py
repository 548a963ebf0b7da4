"""The actions that change the cluster: create, pause, empty, seek, redrive, delete, tombstone, drain, hand over, adopt,
and those on single messages: publish, finish, requeue, give up as a dead letter, copy and move to another topic.

Their requests are sent one by one:

| action | requests |
| --- | --- |
| create a topic | `/topic/create` to every registry |
| create a channel | the same, then `/channel/create` to every registry and to every nsqd that has the topic |
| pause, unpause, empty, seek, redrive | to every nsqd that has the topic |
| delete | the nsqds that have it are looked up first; then to every registry; then to each of these nsqds |
| tombstone a node | it is looked up first; then to every registry, which hides it; then it deletes the topic |
| drain a node, or cancel that | it is looked up first; then to this nsqd |
| adopt a copy that a node holds | the same |
| publish to a node; finish, requeue or give up a message on a node | the same |
| copy or move a message | the same: its body is read, and published to the other topic there; then it is finished |

A failed request does not end the action; its error becomes part of the warning. Only a lookup that no daemon answers
ends it (`UpstreamFailed`), because there would be nothing to act on; and so does the failure of its only request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from nsqadmin.cluster.queries import ClusterQueries
from nsqadmin.model import Node
from nsqadmin.upstream import NSQD, UpstreamError, UpstreamFailed, UpstreamRefused, Warnings

__all__ = [
    "ADOPT_ACTION",
    "COPY_ACTIONS",
    "DRAIN_ACTIONS",
    "MESSAGE_ACTIONS",
    "REDRIVE_ACTIONS",
    "SEEK_ACTION",
    "STATE_ACTIONS",
    "ActionRefused",
    "Actions",
]

STATE_ACTIONS = ("pause", "unpause", "empty")
"""Of topics and channels."""
SEEK_ACTION = "seek"
"""Of channels."""
DRAIN_ACTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "drain": ("/drain", {}),
    "cancel_drain": ("/drain/cancel", {}),
    "hand_over": ("/drain", {"hand_over": "true"}),
}
"""Of nodes, with their paths."""
ADOPT_ACTION = "adopt_copy"
"""Of nodes: of a copy that a node holds."""

REDRIVE_ACTIONS = {"redrive": "/channel/redrive", "stop_redrive": "/channel/redrive/stop"}
"""Of channels, with their paths."""
_NOTHING_THERE = ("DEAD_TOPIC_NOT_FOUND", "NO_REDRIVE")
COPY_ACTIONS = ("copy", "move")
"""Of single messages: to another topic of their node."""

MESSAGE_ACTIONS = ("finish", "requeue", "dead_letter")
"""Of single messages in a channel of one node."""


class ActionRefused(Exception):
    """The daemon will not do it now; the text is its reason."""


@attrs.define(eq=False)
class Actions:
    """Changes the cluster. Every method takes valid names and returns a message: empty, or a warning."""

    queries: ClusterQueries

    async def create(self, topic: str, channel: str = "") -> str:
        """Create a topic, and a channel if its name is not empty. No nsqd creates the topic itself yet."""
        errors: list[str] = []
        await self._post(self.queries.registries, "/topic/create", {"topic": topic}, errors)
        if channel:
            both = {"topic": topic, "channel": channel}
            await self._post(self.queries.registries, "/channel/create", both, errors)
            nodes = await self._look_up(self.queries.registered_nodes, topic, errors)
            await self._post(nodes, "/channel/create", both, errors)
        return _message(errors)

    async def change_topic(self, action: str, topic: str) -> str:
        """Pause, unpause or empty a topic."""
        return await self._change("topic", action, {"topic": topic})

    async def change_channel(self, action: str, topic: str, channel: str) -> str:
        """Pause, unpause or empty a channel."""
        return await self._change("channel", action, {"topic": topic, "channel": channel})

    async def seek(self, topic: str, channel: str, to: str) -> str:
        """Let a channel go on elsewhere: at `start`, `end`, a time, or a message (see nsqd's `/channel/seek`).

        Nodes that do not have everything from there on stay where they are, and say so.
        """
        errors: list[str] = []
        nodes = await self._look_up(self.queries.topic_nodes, topic, errors)
        for node in nodes:
            refused: list[str] = []
            await self._post([node], "/channel/seek", {"topic": topic, "channel": channel, "to": to}, refused)
            errors += (f"{node}: {reason}" for reason in refused)
        return _message(errors)

    async def redrive(self, action: str, topic: str, channel: str, limit: str = "", rate: str = "") -> str:
        """Have the dead letters of a channel put back, or no longer: one of `REDRIVE_ACTIONS`.

        `limit` and `rate`: numbers, of messages and messages a second, for each node; empty for all, at once. Nodes
        that have no dead letters, or put none back, are passed over, unless no node has.
        """
        params = {"topic": topic, "channel": channel}
        params |= {name: value for name, value in (("limit", limit), ("rate", rate)) if value}
        errors: list[str] = []
        nodes = await self._look_up(self.queries.topic_nodes, topic, errors)
        passed: list[str] = []
        for node in nodes:
            refused: list[str] = []
            await self._post([node], REDRIVE_ACTIONS[action], params, refused)
            for reason in refused:
                has_nothing = any(code in reason for code in _NOTHING_THERE)
                (passed if has_nothing else errors).append(f"{node}: {reason}")
        return _message(passed if len(passed) == len(nodes) else errors)

    async def copy_message(
        self, action: str, node: str, topic: str, channel: str, message_id: str, seq: str, to: str
    ) -> str:
        """Publish the body of a message to another topic of its node, as a new message; with `move`, finish it then.

        Killed in between it is in both. Raises what `drain` raises.
        """
        warnings = Warnings()
        await self.queries.find_node(node, warnings)
        params = {"topic": topic, "id": message_id, "format": "raw"} | ({"seq": seq} if seq else {})
        try:
            body = await self.queries.upstream.get(node, "/topic/message", params)
        except UpstreamError as error:
            raise UpstreamFailed(NSQD, [str(error)]) from error
        await self.publish(node, to, body)
        if action == "move":
            await self.change_message("finish", node, topic, channel, message_id, seq)
        return warnings.message

    async def delete_topic(self, topic: str) -> str:
        """Delete a topic with all of its messages, on all daemons."""
        return await self._delete("topic", {"topic": topic})

    async def delete_channel(self, topic: str, channel: str) -> str:
        """Delete a channel with all of its messages, on all daemons."""
        return await self._delete("channel", {"topic": topic, "channel": channel})

    async def tombstone(self, node: str, topic: str) -> str:
        """Remove a topic from a node (`host:http_port`), which the registries hide until it has deleted the topic.

        Raises `UnknownNode` unless the registries (without any, the options) name this node.
        """
        warnings = Warnings()
        # First: any address may be given here, and nothing is sent to one that is not an nsqd of this cluster.
        await self.queries.find_node(node, warnings)
        errors = [error for step in warnings.steps for error in step]
        await self._post(self.queries.registries, "/topic/tombstone", {"topic": topic, "node": node}, errors)
        await self.queries.describe(node, Warnings())
        # To the address that the registries named, not to the one that the node itself calls its own.
        await self._post([node], "/topic/delete", {"topic": topic}, errors)
        return _message(errors)

    async def drain(self, action: str, node: str) -> str:
        """Begin or cancel the drain of a node (`host:http_port`), or have it handed over: one of `DRAIN_ACTIONS`.

        Raises `UnknownNode` unless the registries (without any, the options) name this node, `UpstreamFailed` if the
        node refuses (the original does not know these requests), and `ActionRefused` if it says why.
        """
        path, params = DRAIN_ACTIONS[action]
        return await self._change_node(node, path, params)

    async def adopt(self, node: str, life: str) -> str:
        """Have a node (`host:http_port`) serve the copy that it holds of this life, without force.

        With force nsqd also adopts copies that lack messages, or whose leader is connected and would have to begin
        another life. Neither is to be done from a page that shows the cluster of some seconds ago.

        Raises what `drain` raises.
        """
        return await self._change_node(node, "/replicas/adopt", {"life": life})

    async def change_message(
        self, action: str, node: str, topic: str, channel: str, message_id: str, seq: str
    ) -> str:
        """Finish, requeue or give up a message of a channel on this node (`host:http_port`): one of `MESSAGE_ACTIONS`.

        `seq`: its number there, as the node has told it; may be empty. Raises what `drain` raises.
        """
        params = {"topic": topic, "channel": channel, "id": message_id}
        if seq:
            params["seq"] = seq
        return await self._change_node(node, f"/message/{action}", params)

    async def publish(self, node: str, topic: str, body: bytes) -> str:
        """Publish a message to a topic, which is created if need be, on this node. Raises what `drain` raises."""
        return await self._change_node(node, "/pub", {"topic": topic}, body)

    async def _change_node(self, node: str, path: str, params: dict[str, str], body: bytes = b"") -> str:
        warnings = Warnings()
        await self.queries.find_node(node, warnings)
        try:
            await self.queries.upstream.post(node, path, params, body)
        except UpstreamRefused as refusal:
            raise ActionRefused(refusal.reason) from refusal
        except UpstreamError as error:
            raise UpstreamFailed(NSQD, [str(error)]) from error
        return warnings.message

    async def _change(self, kind: str, action: str, names: dict[str, str]) -> str:
        assert action in STATE_ACTIONS, action
        errors: list[str] = []
        nodes = await self._look_up(self.queries.topic_nodes, names["topic"], errors)
        await self._post(nodes, f"/{kind}/{action}", names, errors)
        return _message(errors)

    async def _delete(self, kind: str, names: dict[str, str]) -> str:
        errors: list[str] = []
        # Looked up first: the registries cannot tell the nsqds of a topic that they have forgotten.
        nodes = await self._look_up(self.queries.topic_nodes, names["topic"], errors)
        await self._post(self.queries.registries, f"/{kind}/delete", names, errors)
        await self._post(nodes, f"/{kind}/delete", names, errors)
        return _message(errors)

    async def _look_up(self, find: _Find, topic: str, errors: list[str]) -> list[str]:
        warnings = Warnings()
        nodes = await find(topic, warnings)
        for step in warnings.steps:
            errors += step
        return [node.http_address for node in nodes]

    async def _post(
        self, addresses: Sequence[str], path: str, params: dict[str, str], errors: list[str]
    ) -> None:
        # One by one, as in the original: scripts may rely on the order.
        for address in addresses:
            try:
                await self.queries.upstream.post(address, path, params)
            except UpstreamError as error:
                errors.append(str(error))


_Find = Callable[[str, Warnings], Awaitable[list[Node]]]


def _message(errors: list[str]) -> str:
    warnings = Warnings()
    warnings.add(errors)
    return warnings.message
