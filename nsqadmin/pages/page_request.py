"""The input and the output of a view: what all pages have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode

from attrs import define, field

from nsqadmin.alarms.alarm import Alarm
from nsqadmin.auth import Identity, identity_of
from nsqadmin.auth.cookies import cookies_in
from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.console import Console
from nsqadmin.paths import channel_path, messages_path, node_path, segment, topic_path
from nsqkit.service.http import Request

__all__ = ["Page", "PageRequest", "View", "query_of"]

_REMEMBERED = ("span", "t")
"""Parameters that `live.js` stores in cookies (`console_...`), so that they apply to all pages."""


@define(frozen=True, kw_only=True, slots=False)
class PageRequest:
    """A request for a page."""

    console: Console
    path: str
    """Without the base path."""
    path_params: Mapping[str, str]
    """The variable segments of the path."""
    query: Mapping[str, str]
    """The parameters, and for missing ones those in cookies."""
    identity: Identity
    snapshot: ClusterSnapshot
    """The same for the whole page. It has only the topics that the user may see."""

    @classmethod
    async def from_http(cls, console: Console, request: Request) -> PageRequest:
        """The request, with the present snapshot."""
        identity = identity_of(request)
        query = query_of(request)
        for name, value in _remembered(request).items():
            query.setdefault(name, value)
        return cls(
            console=console,
            path=request.path.removeprefix(console.base_path) or "/",
            path_params=request.params,
            query=query,
            identity=identity,
            snapshot=await console.selections.of(console.poller.snapshot, identity.topics),
        )

    @property
    def alarms(self) -> Sequence[Alarm]:
        """Those that the user sees, the worst first."""
        return self.console.alarms_for(self.identity)

    def url(self, path: str) -> str:
        """The link to a path of the console."""
        return self.console.url(path)

    @cached_property
    def own_url(self) -> str:
        """The link to this page, without its query."""
        return self.url("/".join(segment(part) for part in self.path.split("/")))

    def link_with(self, **changes: str) -> str:
        """The link to this page with some parameters changed; these come last."""
        query = {key: value for key, value in self.query.items() if key not in changes}
        return f"{self.own_url}?{urlencode({**query, **changes})}"

    def status_of(self, found: object) -> int:
        """200, or 404 if what the page is about was not found. Before the first poll nothing is known to be missing."""
        return 404 if found is None and self.snapshot.at else 200

    def topic_url(self, topic: str) -> str:
        """The link to a topic."""
        return self.url(topic_path(topic))

    def channel_url(self, topic: str, channel: str) -> str:
        """The link to a channel; to its topic if the channel is empty."""
        return self.url(channel_path(topic, channel))

    def messages_url(self, topic: str, channel: str) -> str:
        """The link to the messages of a channel."""
        return self.url(messages_path(topic, channel))

    def download_url(self, topic: str, channel: str, message_id: str, *, node: str, seq: int) -> str:
        """The link to the body of a message on a node."""
        path = f"/api{messages_path(topic, channel)}/{segment(message_id)}"
        return f"{self.url(path)}?{urlencode({'node': node, 'seq': seq})}"

    def publish_url(self, topic: str) -> str:
        """Where messages for a topic are sent."""
        return self.url(f"/api/messages/{segment(topic)}")

    def node_url(self, address: str) -> str:
        """The link to a node."""
        return self.url(node_path(address))


@define(frozen=True)
class Page:
    """A page to be rendered."""

    template: str
    section: str
    """The entry of the main navigation that it belongs to."""
    values: Mapping[str, Any] = field(factory=dict)
    status: int = 200


View = Callable[[PageRequest], Awaitable[Page]]


def query_of(request: Request) -> dict[str, str]:
    """The parameters of the query, the last value of each name. Malformed escapes are no error: people type these."""
    return dict(parse_qsl(request.query_string.decode("latin-1"), keep_blank_values=True))


def _remembered(request: Request) -> dict[str, str]:
    """The parameters that the browser has stored."""
    cookies = cookies_in(request.headers)
    stored = {name: cookies.get(f"console_{name}", "") for name in _REMEMBERED}
    return {name: value for name, value in stored.items() if value}
