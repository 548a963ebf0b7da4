"""The context that API and pages share: one console for one cluster.

For the pages: `nsqadmin.pages.pages(console)` returns an ASGI application. It gets every request but those of `/api`,
`/config`, `/ping`, `/render`, `/static` and `/fonts`; the path in its scope has no base path any more, links begin with
`console.base_path` (empty for `/`, else without a slash at the end: `f"{console.base_path}/topics"`). Files of
`nsqadmin/static/` are served at `/static/NAME` with an ETag; with a query `?v=...` browsers keep them for a year.
Small answers are compressed on the way out; answers sent piece by piece (server-sent events) are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import trio

from nsqadmin.access import is_admin
from nsqadmin.cluster.history import History
from nsqadmin.cluster.picture import Picture
from nsqadmin.options import AdminOptions
from nsqkit.version import VERSION

if TYPE_CHECKING:
    from nsqadmin.actions import Actions
    from nsqadmin.cluster.live import Live

__all__ = ["Console"]


@attrs.define(eq=False, kw_only=True)
class Console:
    """What a request handler needs."""

    options: AdminOptions
    picture: Picture
    history: History
    live: Live
    """Fresh answers, each asked for now: what the API gives."""
    actions: Actions
    """What changes the cluster."""
    version: str = VERSION
    stopping: trio.Event = attrs.field(factory=trio.Event)
    """Set when nsqadmin stops: streams end then."""

    @property
    def base_path(self) -> str:
        """What every link begins with: empty, or as `/adm`."""
        return self.options.base_path.rstrip("/")

    def is_admin(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the request with these headers may change things. Raw headers, names in lower case: those of a
        `nsqkit.service.http.Request`, or `request.headers.raw` of starlette."""
        return is_admin(self.options, headers)
