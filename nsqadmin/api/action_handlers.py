"""POST and DELETE /api/...: checks the body, does the action, and reports it. The gate has checked the user.

Bodies are decoded as the original does it: the first JSON value, by the rules of `nsqkit.service.lenient_json`;
anything after it is ignored.
"""

from __future__ import annotations

import re

from nsqadmin.actions import (
    ADOPT_ACTION,
    COPY_ACTIONS,
    DRAIN_ACTIONS,
    MESSAGE_ACTIONS,
    REDRIVE_ACTIONS,
    SEEK_ACTION,
    STATE_ACTIONS,
    ActionRefused,
)
from nsqadmin.auth import identity_of
from nsqadmin.cluster.queries import UnknownNode
from nsqadmin.console import Console
from nsqadmin.notify import Event, Notifier
from nsqadmin.upstream.copies import LIFE_PATTERN
from nsqadmin.upstream.messages import ID_PATTERN
from nsqkit.decoding import first_json_value
from nsqkit.logging import get_logger
from nsqkit.service.http import HttpError, Request, Response, json_body
from nsqkit.service.http.audit import note
from nsqkit.service.lenient_json import decode_object
from nsqkit.wire.names import is_valid_name

__all__ = ["ActionHandlers"]

_log = get_logger(__name__)

_JSON_SPACE = " \t\r\n"
_SEQ = re.compile("[0-9]{0,18}")
_COUNT = re.compile("[0-9]{0,9}")
_PLACE = re.compile("[!-~]{1,40}")  # what it means, nsqd knows


class ActionHandlers:
    """The handlers, for one console."""

    def __init__(self, console: Console, notifier: Notifier) -> None:
        self._console = console
        self._actions = console.actions
        self._notifier = notifier

    async def create(self, request: Request) -> Response:
        """POST /api/topics."""
        topic, channel = _decode(request, "topic", "channel")
        if not is_valid_name(topic):
            raise HttpError(400, "INVALID_TOPIC")
        if channel and not is_valid_name(channel):
            raise HttpError(400, "INVALID_CHANNEL")
        self._console.check_topic(request, topic)
        message = await self._actions.create(topic, channel)
        self._report(request, Event("create_topic", topic))
        if channel:
            self._report(request, Event("create_channel", topic, channel))
        return self._done(request, message)

    async def change(self, request: Request) -> Response:
        """POST /api/topics/:topic and /api/topics/:topic/:channel."""
        action, place, limit, rate = _decode(request, "action", "to", "limit", "rate")
        topic, channel = request.params["topic"], request.params.get("channel", "")
        of_channels = action == SEEK_ACTION or action in REDRIVE_ACTIONS
        if action not in STATE_ACTIONS and not (of_channels and channel):
            raise HttpError(400, "INVALID_ACTION")
        if action == SEEK_ACTION and not _PLACE.fullmatch(place):
            raise HttpError(400, "INVALID_TO")
        for name, value in (("limit", limit), ("rate", rate)):
            if not _COUNT.fullmatch(value):
                raise HttpError(400, f"INVALID_{name.upper()}")
        try:
            if action == SEEK_ACTION:
                message = await self._actions.seek(topic, channel, place)
            elif action in REDRIVE_ACTIONS:
                message = await self._actions.redrive(action, topic, channel, limit, rate)
            elif channel:
                message = await self._actions.change_channel(action, topic, channel)
            else:
                message = await self._actions.change_topic(action, topic)
        finally:
            # Reported even if the action failed: some nsqds may have done it.
            self._report(request, Event(f"{action}_{'channel' if channel else 'topic'}", topic, channel))
        return self._done(request, message)

    async def delete_topic(self, request: Request) -> Response:
        """DELETE /api/topics/:topic."""
        topic = request.params["topic"]
        message = await self._actions.delete_topic(topic)
        self._report(request, Event("delete_topic", topic))
        return self._done(request, message)

    async def delete_channel(self, request: Request) -> Response:
        """DELETE /api/topics/:topic/:channel."""
        topic, channel = request.params["topic"], request.params["channel"]
        message = await self._actions.delete_channel(topic, channel)
        self._report(request, Event("delete_channel", topic, channel))
        return self._done(request, message)

    async def tombstone(self, request: Request) -> Response:
        """DELETE /api/nodes/:node."""
        try:
            [topic] = _decode(request, "topic")
        except HttpError:
            raise HttpError(400, "INVALID_BODY") from None
        if not is_valid_name(topic):
            raise HttpError(400, "INVALID_TOPIC")
        self._console.check_topic(request, topic)
        node = request.params["node"]
        try:
            message = await self._actions.tombstone(node, topic)
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        self._report(request, Event("tombstone_topic_producer", topic, node=node))
        return self._done(request, message)

    async def change_node(self, request: Request) -> Response:
        """POST /api/nodes/:node."""
        action, life = _decode(request, "action", "life")
        node = request.params["node"]
        try:
            if action in DRAIN_ACTIONS:
                message = await self._actions.drain(action, node)
                event = Event(f"{action}_node", node=node)
            elif action == ADOPT_ACTION:
                if not re.match(LIFE_PATTERN, life):
                    raise HttpError(400, "INVALID_LIFE")
                message = await self._actions.adopt(node, life)
                event = Event(action, node=node, life=life)
            else:
                raise HttpError(400, "INVALID_ACTION")
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        except ActionRefused as refusal:
            raise HttpError(409, f"REFUSED: {refusal}") from None
        self._report(request, event)
        return self._done(request, message)

    async def publish(self, request: Request) -> Response:
        """POST /api/messages/:topic."""
        node, body = _decode(request, "node", "body")
        topic = request.params["topic"]
        if not is_valid_name(topic):
            raise HttpError(400, "INVALID_TOPIC")
        if not body:
            raise HttpError(400, "MSG_EMPTY")
        try:
            message = await self._actions.publish(node, topic, body.encode("utf-8", "replace"))
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        self._report(request, Event("publish_message", topic, node=node))
        return self._done(request, message)

    async def change_message(self, request: Request) -> Response:
        """POST /api/messages/:topic/:channel."""
        action, node, message_id, seq, to = _decode(request, "action", "node", "id", "seq", "to")
        if action not in (*MESSAGE_ACTIONS, *COPY_ACTIONS):
            raise HttpError(400, "INVALID_ACTION")
        if action in COPY_ACTIONS:
            if not is_valid_name(to):
                raise HttpError(400, "INVALID_TO")
            self._console.check_topic(request, to)
        if not re.match(ID_PATTERN, message_id) or not _SEQ.fullmatch(seq):
            raise HttpError(400, "INVALID_ID")
        topic, channel = request.params["topic"], request.params["channel"]
        try:
            if action in COPY_ACTIONS:
                message = await self._actions.copy_message(action, node, topic, channel, message_id, seq, to)
            else:
                message = await self._actions.change_message(action, node, topic, channel, message_id, seq)
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        self._report(request, Event(f"{action}_message", topic, channel, node, message=message_id))
        return self._done(request, message)

    def _report(self, request: Request, event: Event) -> None:
        note(request, what=event.action, on=event.names)
        _log.info("ACTION: %s by %s (%s)", event, identity_of(request).name or "unknown user", request.remote)
        self._notifier.notify(request, event)
        self._console.poller.poll_soon()

    def _done(self, request: Request, message: str) -> Response:
        if message:
            note(request, error=message)
            _log.warning("ACTION: %s", message)
        return json_body({"message": message})


def _decode(request: Request, *fields: str) -> list[str]:
    """The values of these fields of the body, empty if missing. Raises `HttpError` 400 with the reason."""
    text = request.body.decode("utf-8", "replace").lstrip(_JSON_SPACE)
    if not text:
        raise HttpError(400, "EOF")
    try:
        value = first_json_value(text)
        found = decode_object(value.encode(), dict.fromkeys(fields, str))
    except ValueError as error:
        raise HttpError(400, str(error)) from error
    return [found.get(field, "") for field in fields]
