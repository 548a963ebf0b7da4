"""What each request to the console needs: the only place that says so.

A route that is not in `ROUTES` cannot be added to the site. docs/security.md is generated from it. HEAD needs what GET
does. Which role may do what, in principle: `nsqadmin.auth.identity`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from nsqadmin.auth.identity import Identity, Role

__all__ = ["ROUTES", "About", "Need", "need_of"]


class About(enum.Enum):
    """What a request is about: whether somebody who is limited to some topics may send it."""

    ANY = "no topic"
    """He may."""
    SELECTION = "those of the user's topics"
    """He may, and the handler leaves out all other topics."""
    PATH = "the topic in the path"
    QUERY = "the topic in the query"
    """Without one it is about all topics."""
    BODY = "the topic in the body"
    """The handler looks: `Console.check_topic`."""
    CLUSTER = "nodes, options, or topics of any name"
    """He may not."""


@attrs.frozen
class Need:
    """What a request needs."""

    role: Role
    about: About = About.ANY

    def is_met(self, identity: Identity, path_params: Mapping[str, str], query: Mapping[str, str]) -> bool:
        """Whether somebody may send such a request."""
        if identity.role < self.role:
            return False
        topics = identity.topics
        if self.about is About.PATH:
            return topics.include(path_params["topic"])
        if self.about is About.QUERY:
            return topics.include(query.get("topic", ""))
        return self.about is not About.CLUSTER or topics.are_all


_OPEN: Final = Need(Role.STRANGER)
_VIEW: Final = Need(Role.VIEWER)
_VIEW_SELECTION: Final = Need(Role.VIEWER, About.SELECTION)
_VIEW_TOPIC: Final = Need(Role.VIEWER, About.PATH)
_CHANGE_TOPIC: Final = Need(Role.OPERATOR, About.PATH)
_MESSAGES: Final = Need(Role.ADMIN, About.PATH)  # they may hold anything

ROUTES: Final[Mapping[tuple[str, str], Need]] = {
    ("GET", "/ping"): _OPEN,  # for load balancers
    ("GET", "/static/:asset"): _OPEN,
    ("GET", "/fonts/:asset"): _OPEN,
    ("GET", "/login"): _OPEN,
    ("POST", "/login"): _OPEN,
    ("POST", "/logout"): _OPEN,
    ("GET", "/"): _VIEW_SELECTION,
    ("GET", "/topics"): _VIEW_SELECTION,
    ("GET", "/topics/:topic"): _VIEW_TOPIC,
    ("GET", "/topics/:topic/:channel"): _VIEW_TOPIC,
    ("GET", "/messages/:topic/:channel"): _MESSAGES,
    ("GET", "/nodes"): _VIEW_SELECTION,
    ("GET", "/nodes/:node"): _VIEW_SELECTION,
    ("GET", "/lookup"): _VIEW_SELECTION,
    ("GET", "/alarms"): _VIEW_SELECTION,
    ("GET", "/audit"): Need(Role.ADMIN, About.CLUSTER),
    ("GET", "/counter"): _VIEW_SELECTION,
    ("GET", "/series"): Need(Role.VIEWER, About.QUERY),
    ("GET", "/live"): _VIEW,  # says when there is a new snapshot, and nothing of it
    ("GET", "/api/topics"): _VIEW_SELECTION,
    ("POST", "/api/topics"): Need(Role.OPERATOR, About.BODY),
    ("GET", "/api/topics/:topic"): _VIEW_TOPIC,
    ("POST", "/api/topics/:topic"): _CHANGE_TOPIC,
    ("DELETE", "/api/topics/:topic"): _CHANGE_TOPIC,
    ("GET", "/api/topics/:topic/:channel"): _VIEW_TOPIC,
    ("POST", "/api/topics/:topic/:channel"): _CHANGE_TOPIC,
    ("DELETE", "/api/topics/:topic/:channel"): _CHANGE_TOPIC,
    ("POST", "/api/messages/:topic"): _MESSAGES,
    ("POST", "/api/messages/:topic/:channel"): _MESSAGES,
    ("GET", "/api/messages/:topic/:channel/:id"): _MESSAGES,
    ("GET", "/api/nodes"): _VIEW_SELECTION,
    ("GET", "/api/alarms"): _VIEW_SELECTION,
    ("GET", "/api/audit"): Need(Role.ADMIN, About.CLUSTER),
    ("GET", "/api/nodes/:node"): _VIEW_SELECTION,
    ("POST", "/api/nodes/:node"): Need(Role.OPERATOR, About.CLUSTER),
    ("DELETE", "/api/nodes/:node"): Need(Role.OPERATOR, About.BODY),
    ("GET", "/api/counter"): _VIEW_SELECTION,
    ("GET", "/api/graphite"): Need(Role.VIEWER, About.CLUSTER),
    ("GET", "/config/:opt"): Need(Role.ADMIN, About.CLUSTER),
    ("PUT", "/config/:opt"): Need(Role.ADMIN, About.CLUSTER),
    ("GET", "/render"): Need(Role.VIEWER, About.CLUSTER),
}
"""By method and path, without the base path."""


def need_of(method: str, path: str) -> Need:
    """What a route needs. `ValueError` for one that is not in the table."""
    need = ROUTES.get(("GET" if method == "HEAD" else method, path))
    if need is None:
        raise ValueError(f"{method} {path} is not in the table of what requests need")
    return need
