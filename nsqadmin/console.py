"""The context that the handlers of the API and of the pages share: one console for one cluster."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from nsqadmin.access import is_admin
from nsqadmin.actions import Actions
from nsqadmin.cluster.history import History
from nsqadmin.cluster.live import Live
from nsqadmin.cluster.picture import Picture
from nsqadmin.options import AdminOptions
from nsqkit.version import VERSION

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
        """What every path begins with: empty, or for example `/adm`."""
        return self.options.base_path.rstrip("/")

    def url(self, path: str) -> str:
        """The path below the base path, for a route or a link; `path` begins with a slash."""
        return self.base_path + path if path != "/" else self.base_path or "/"

    def is_admin(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the request with these headers may change things. Names are in lower case."""
        return is_admin(self.options, headers)
