"""GET /api/...: each request queries the daemons; `message` names those that did not answer.

Lists have only those topics that the user may see.
"""

from __future__ import annotations

import time

from nsqadmin.alarms.alarm import alarm_as_json
from nsqadmin.api.as_json import channel_as_json, counter_as_json, counter_key, node_as_json, topic_as_json
from nsqadmin.api.json_pieces import Each, Members, json_response
from nsqadmin.audit import search_trails
from nsqadmin.auth import identity_of
from nsqadmin.cluster.merge import by_closeness
from nsqadmin.cluster.queries import UnknownChannel, UnknownNode
from nsqadmin.console import Console
from nsqadmin.upstream import Warnings
from nsqkit.service.http import HttpError, Request, Response, json_body, query
from nsqkit.service.http.audit import audit_query

__all__ = ["ReadHandlers"]


class ReadHandlers:
    """The handlers, for one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._queries = console.queries

    async def topics(self, request: Request) -> Response:
        """The names of all topics, or the inactive topics with their channels."""
        warnings, visible = Warnings(), identity_of(request).topics
        if query(request).get("inactive") == "true":
            inactive = await self._queries.inactive_topics(warnings)
            named = {name: channels or None for name, channels in inactive.items() if visible.include(name)}
            return json_body({"topics": named, "message": warnings.message})
        names = [name for name in await self._queries.topics(warnings) if visible.include(name)]
        return json_body({"topics": names or None, "message": warnings.message})

    async def topic(self, request: Request) -> Response:
        """One topic over all nodes."""
        warnings = Warnings()
        topic = await self._queries.topic(request.params["topic"], warnings)
        return json_response({**topic_as_json(topic), "message": warnings.message})

    async def channel(self, request: Request) -> Response:
        """One channel over all nodes, with its clients. An unknown one is a 500, as in the original."""
        warnings = Warnings()
        try:
            channel = await self._queries.channel(
                request.params["topic"], request.params["channel"], warnings
            )
        except UnknownChannel:
            raise HttpError(500, "INTERNAL_ERROR") from None
        if channel.clients is not None:
            channel.clients = by_closeness(channel.clients)
        return json_response({**channel_as_json(channel, time.time()), "message": warnings.message})

    async def alarms(self, request: Request) -> Response:
        """What is wrong in the cluster as it was polled last, the worst first."""
        console, now = self._console, time.time()
        warnings = Warnings()
        warnings.add([problem.error for problem in console.poller.snapshot.problems])
        alarms = [
            alarm_as_json(alarm, console.base_path, now) for alarm in console.alarms_for(identity_of(request))
        ]
        return json_body({"alarms": alarms, "message": warnings.message})

    async def audit(self, request: Request) -> Response:
        """The last lines in the audit trails of all daemons."""
        console = self._console
        asked = audit_query(query(request))
        nodes, registries = console.poller.snapshot.nodes, console.options.lookupd_http_addresses
        report = await search_trails(console.trail, console.queries.upstream, asked, nodes, registries)
        warnings = Warnings()
        warnings.add(
            [f"{kind} {address}".rstrip() + f" {text}" for (kind, address), text in report.problems.items()]
        )
        return json_body({"lines": report.lines, "complete": report.complete, "message": warnings.message})

    async def nodes(self, request: Request) -> Response:
        """All nodes."""
        warnings = Warnings()
        nodes, visible = await self._queries.nodes(warnings), identity_of(request).topics
        for node in nodes:
            node.topics = [each for each in node.topics if visible.include(each.topic)]
        shown = Each(node_as_json(node) for node in nodes) if nodes else None
        return json_response({"nodes": shown, "message": warnings.message})

    async def node(self, request: Request) -> Response:
        """One node with its topics, channels and clients."""
        warnings = Warnings()
        address = request.params["node"]
        try:
            found = await self._queries.node(address, warnings)
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        visible = identity_of(request).topics
        topics = [topic for topic in found if visible.include(topic.topic_name)]
        channels = [channel for topic in topics for channel in topic.channels or ()]
        now = time.time()
        return json_response(
            {
                "node": address,
                "topics": Each(topic_as_json(topic, now) for topic in topics) if topics else None,
                "total_messages": sum(topic.message_count for topic in topics),
                "total_clients": sum(len(channel.clients or ()) for channel in channels),
                "message": warnings.message,
            }
        )

    async def counter(self, request: Request) -> Response:
        """The message counts of every channel of every node."""
        warnings = Warnings()
        channels, visible = await self._queries.node_channels(warnings), identity_of(request).topics
        counts = Members(
            (counter_key(channel), counter_as_json(channel))
            for channel in channels
            if visible.include(channel.topic_name)
        )
        return json_response({"stats": counts, "message": warnings.message})
