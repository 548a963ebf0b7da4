"""What a view is given and what it gives back: the smallest vocabulary that all pages share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from attrs import define, field

from nsqadmin.cluster.views import Snapshot
from nsqadmin.console import Console
from nsqadmin.pages.human import segment
from nsqkit.http import Request

__all__ = ["Page", "View", "Visit", "query_of"]

_REMEMBERED = ("span", "t")
"""Parameters that `live.js` keeps in cookies of the names `console_...`, for all pages."""


@define(frozen=True, kw_only=True, slots=False)
class Visit:
    """One request for a page."""

    console: Console
    path: str
    """Without the base path."""
    names: Mapping[str, str]
    """The segments of the path that are names."""
    params: Mapping[str, str]
    """Of the query."""
    is_admin: bool
    snapshot: Snapshot
    """The cluster, the same moment for the whole page."""

    @classmethod
    def of_request(cls, console: Console, request: Request) -> Visit:
        """The request for a page, with the snapshot of this moment."""
        params = query_of(request)
        for name, value in _remembered(request).items():
            params.setdefault(name, value)
        return cls(
            console=console,
            path=request.path.removeprefix(console.base_path) or "/",
            names=request.params,
            params=params,
            is_admin=console.is_admin(request.headers),
            snapshot=console.picture.snapshot,
        )

    def url(self, path: str) -> str:
        """A path of the console as a link."""
        return self.console.url(path)

    @cached_property
    def here(self) -> str:
        """The link to this page, without its query."""
        return self.url("/".join(segment(part) for part in self.path.split("/")))

    def topic_url(self, topic: str) -> str:
        """The link to a topic."""
        return self.url(f"/topics/{segment(topic)}")

    def channel_url(self, topic: str, channel: str) -> str:
        """The link to a channel."""
        return self.url(f"/topics/{segment(topic)}/{segment(channel)}")

    def node_url(self, address: str) -> str:
        """The link to a node."""
        return self.url(f"/nodes/{segment(address)}")


@define(frozen=True)
class Page:
    """What is to be shown."""

    template: str
    section: str
    """Which of the main links it belongs to."""
    values: Mapping[str, Any] = field(factory=dict)


View = Callable[[Visit], Awaitable[Page]]


def query_of(request: Request) -> dict[str, str]:
    """The parameters of the query, the last of each name. Lenient, as people type addresses: no escape is an error."""
    return dict(parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True))


def _remembered(request: Request) -> dict[str, str]:
    """What the browser remembers of how far back charts look."""
    cookies = {}
    # Not http.cookies.SimpleCookie, which drops all cookies when a proxy's own are not as it expects.
    for name, value in request.headers:
        if name == b"cookie":
            pairs = (pair.partition("=") for pair in value.decode("latin-1").split(";"))
            cookies.update({key.strip(): text.strip() for key, _, text in pairs})
    found = {name: cookies.get(f"console_{name}", "") for name in _REMEMBERED}
    return {name: value for name, value in found.items() if value}
