"""What a view is given and what it gives back: the smallest vocabulary that all pages share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any

from attrs import define, field

from nsqadmin.cluster.views import Snapshot
from nsqadmin.console import Console
from nsqadmin.pages.human import segment

__all__ = ["Page", "View", "Visit"]


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

    def url(self, path: str) -> str:
        """A path of the console as a link."""
        return f"{self.console.base_path}{path}" if path != "/" else self.console.base_path or "/"

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
