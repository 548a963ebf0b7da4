"""POST and DELETE /api/...: who may act, what the body says, the action, the report of it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from nsqadmin.access import check_admin, user_of
from nsqadmin.actions import STATE_ACTIONS
from nsqadmin.console import Console
from nsqadmin.notify import Event, Notifier
from nsqkit.http import HttpError, Request, Response, json_body
from nsqkit.logging import get_logger
from nsqkit.wire.names import is_valid_name

__all__ = ["Actor"]

_log = get_logger(__name__)

_BodyT = TypeVar("_BodyT")


class _Create(msgspec.Struct):
    topic: str = ""
    channel: str = ""


class _Change(msgspec.Struct):
    action: str = ""


class _Tombstone(msgspec.Struct):
    topic: str = ""


class Actor:
    """The handlers, for one console."""

    def __init__(self, console: Console, notifier: Notifier) -> None:
        self._console = console
        self._actions = console.actions
        self._notifier = notifier

    async def create(self, request: Request) -> Response:
        """POST /api/topics."""
        check_admin(self._console.options, request)
        body = _decode(request, _Create)
        if not is_valid_name(body.topic):
            raise HttpError(400, "INVALID_TOPIC")
        if body.channel and not is_valid_name(body.channel):
            raise HttpError(400, "INVALID_CHANNEL")
        message = await self._actions.create(body.topic, body.channel)
        self._report(request, Event("create_topic", body.topic))
        if body.channel:
            self._report(request, Event("create_channel", body.topic, body.channel))
        return self._done(message)

    async def change(self, request: Request) -> Response:
        """POST /api/topics/:topic and /api/topics/:topic/:channel."""
        check_admin(self._console.options, request)
        action = _decode(request, _Change).action
        if action not in STATE_ACTIONS:
            raise HttpError(400, "INVALID_ACTION")
        topic, channel = request.params["topic"], request.params.get("channel", "")
        try:
            if channel:
                message = await self._actions.change_channel(action, topic, channel)
            else:
                message = await self._actions.change_topic(action, topic)
        finally:
            # Told even when nobody answered: some nsqd may have done it.
            self._report(request, Event(f"{action}_{'channel' if channel else 'topic'}", topic, channel))
        return self._done(message)

    async def delete_topic(self, request: Request) -> Response:
        """DELETE /api/topics/:topic."""
        check_admin(self._console.options, request)
        topic = request.params["topic"]
        message = await self._actions.delete_topic(topic)
        self._report(request, Event("delete_topic", topic))
        return self._done(message)

    async def delete_channel(self, request: Request) -> Response:
        """DELETE /api/topics/:topic/:channel."""
        check_admin(self._console.options, request)
        topic, channel = request.params["topic"], request.params["channel"]
        message = await self._actions.delete_channel(topic, channel)
        self._report(request, Event("delete_channel", topic, channel))
        return self._done(message)

    async def tombstone(self, request: Request) -> Response:
        """DELETE /api/nodes/:node."""
        check_admin(self._console.options, request)
        try:
            topic = msgspec.json.decode(request.body, type=_Tombstone).topic
        except msgspec.MsgspecError:
            raise HttpError(400, "INVALID_BODY") from None
        if not is_valid_name(topic):
            raise HttpError(400, "INVALID_TOPIC")
        node = request.params["node"]
        message = await self._actions.tombstone(node, topic)
        self._report(request, Event("tombstone_topic_producer", topic, node=node))
        return self._done(message)

    def _report(self, request: Request, event: Event) -> None:
        user = user_of(self._console.options, request.headers)
        _log.info("ACTION: %s by %s (%s)", event, user or "nobody in particular", request.remote)
        self._notifier.notify(request, event)
        self._console.picture.poll_soon()

    def _done(self, message: str) -> Response:
        if message:
            _log.warning("ACTION: %s", message)
        return json_body({"message": message})


def _decode(request: Request, kind: type[_BodyT]) -> _BodyT:
    if not request.body:
        raise HttpError(400, "EOF")
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.MsgspecError as error:
        raise HttpError(400, str(error)) from error
