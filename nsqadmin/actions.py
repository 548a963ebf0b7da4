"""What changes the cluster: create, pause, empty, delete, tombstone. The calls are made one after another:

| action | calls |
| --- | --- |
| create a topic | `/topic/create` at every registry |
| create a channel | the same, then `/channel/create` at every registry and at every nsqd that has the topic |
| pause, unpause, empty | the nsqds that have the topic, each |
| delete | the nsqds that have it are looked up first; the registries forget it; then each nsqd deletes it |
| tombstone a node | the registries hide it for a while; then the node deletes the topic |

A call that fails does not end the action: it becomes part of the warning. Only a look-up that nobody answers does
(`UpstreamFailed`), as there would be nothing to act on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from nsqadmin.cluster.live import Live
from nsqadmin.cluster.model import Node
from nsqadmin.upstream import UpstreamError, Warnings

__all__ = ["STATE_ACTIONS", "Actions"]

STATE_ACTIONS = ("pause", "unpause", "empty")


@attrs.define(eq=False)
class Actions:
    """Acts on the daemons. Every method returns a message: empty, or a warning. Names are valid when they come here."""

    live: Live

    async def create(self, topic: str, channel: str = "") -> str:
        """Create a topic, and a channel if one is named. The topic itself is not created on any nsqd."""
        errors: list[str] = []
        await self._post(self.live.registries, "/topic/create", {"topic": topic}, errors)
        if channel:
            both = {"topic": topic, "channel": channel}
            await self._post(self.live.registries, "/channel/create", both, errors)
            nodes = await self._look_up(self.live.registered_nodes, topic, errors)
            await self._post(nodes, "/channel/create", both, errors)
        return _message(errors)

    async def change_topic(self, action: str, topic: str) -> str:
        """Pause, unpause or empty a topic."""
        return await self._change("topic", action, {"topic": topic})

    async def change_channel(self, action: str, topic: str, channel: str) -> str:
        """Pause, unpause or empty a channel."""
        return await self._change("channel", action, {"topic": topic, "channel": channel})

    async def delete_topic(self, topic: str) -> str:
        """Delete a topic everywhere, with all that is in it."""
        return await self._delete("topic", {"topic": topic})

    async def delete_channel(self, topic: str, channel: str) -> str:
        """Delete a channel everywhere, with all that is in it."""
        return await self._delete("channel", {"topic": topic, "channel": channel})

    async def tombstone(self, node: str, topic: str) -> str:
        """Take a topic from a node: registries hide the node (`host:http_port`) until its topic is deleted."""
        errors: list[str] = []
        await self._post(self.live.registries, "/topic/tombstone", {"topic": topic, "node": node}, errors)
        warnings = Warnings()
        found = await self.live.named_node(node, warnings)
        await self._post([found.http_address], "/topic/delete", {"topic": topic}, errors)
        return _message(errors)

    async def _change(self, what: str, action: str, names: dict[str, str]) -> str:
        assert action in STATE_ACTIONS, action
        errors: list[str] = []
        nodes = await self._look_up(self.live.topic_nodes, names["topic"], errors)
        await self._post(nodes, f"/{what}/{action}", names, errors)
        return _message(errors)

    async def _delete(self, what: str, names: dict[str, str]) -> str:
        errors: list[str] = []
        nodes = await self._look_up(self.live.topic_nodes, names["topic"], errors)
        await self._post(self.live.registries, f"/{what}/delete", names, errors)
        await self._post(nodes, f"/{what}/delete", names, errors)
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
        for address in addresses:
            try:
                await self.live.upstream.post(address, path, params)
            except UpstreamError as error:
                errors.append(str(error))


_Find = Callable[[str, Warnings], Awaitable[list[Node]]]


def _message(errors: list[str]) -> str:
    warnings = Warnings()
    warnings.add(errors)
    return warnings.message
