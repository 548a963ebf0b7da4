"""GET /api/messages/:topic/:channel/:id: the body of a message, as a file.

Only from an nsqd of this cluster, as the address comes from the
request.
"""

from __future__ import annotations

import re

from nsqadmin.cluster.queries import UnknownNode
from nsqadmin.console import Console
from nsqadmin.upstream import NSQD, UpstreamError, UpstreamFailed, Warnings
from nsqadmin.upstream.messages import ID_PATTERN
from nsqkit.service.http import HttpError, Request, Response, query

__all__ = ["BodyDownload"]

_BYTES = b"application/octet-stream"
_UNSAFE = re.compile("[^0-9A-Za-z]")


class BodyDownload:
    """The handler, for one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def get(self, request: Request) -> Response:
        """The body. Parameters: `node`, and `seq` if it is known."""
        params, message_id = query(request), request.params["id"]
        if not re.match(ID_PATTERN, message_id):
            raise HttpError(400, "INVALID_ID")
        node = params.get("node", "")
        wanted = {"topic": request.params["topic"], "id": message_id, "format": "raw"}
        if "seq" in params:
            wanted["seq"] = params["seq"]
        queries = self._console.queries
        try:
            await queries.find_node(node, Warnings())
        except UnknownNode:
            raise HttpError(404, "NODE_NOT_FOUND") from None
        try:
            body = await queries.upstream.get(node, "/topic/message", wanted)
        except UpstreamError as failure:
            raise UpstreamFailed(NSQD, [str(failure)]) from failure
        name = _UNSAFE.sub("_", message_id).encode()
        headers = (
            (b"Content-Disposition", b'attachment; filename="%b.bin"' % name),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Cache-Control", b"no-store"),
        )
        return Response(200, body, _BYTES, headers)
