"""Whose a request is: a name, by which means it was found out, and what it may do.

| role | may |
| --- | --- |
| `viewer` | see names, figures and states |
| `operator` | what a viewer may; create, pause, empty and delete; drain nodes, adopt copies |
| `admin` | everything, also read, publish and finish messages, and see and change options |

They are the scopes `read`, `operate` and `admin` of the daemons' tokens. A role can be limited to the topics of some
patterns. Such a user sees and does nothing that is about other topics, and does nothing to nodes; figures of whole
nodes stay visible.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs
import trio

from nsqkit.access.scopes import matches, parse_pattern
from nsqkit.service.http import Request

__all__ = ["ALL_TOPICS", "MAX_PATTERNS", "STRANGER", "Identity", "Means", "Role", "Topics", "identity_of"]

MAX_PATTERNS = 100
"""Of one user, so that a check of all of them stays short."""


class Role(enum.IntEnum):
    """What somebody may do. Each one may do what those before it may."""

    STRANGER = 0
    """Who has not logged in. No user has it."""
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    def __str__(self) -> str:
        return self.name.lower()


class Means(enum.Enum):
    """How it is known whose a request is."""

    NONE = "anonymous"
    SESSION = "session"
    """A cookie, after a login."""
    BASIC = "basic"
    """Name and password in the header Authorization: of scripts."""
    HEADER = "header"
    """What a proxy says that is trusted."""


@attrs.frozen
class Topics:
    """Which topics a user has to do with: those of any of these patterns, or all."""

    patterns: tuple[str, ...] = ()
    """Empty: all."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Topics:
        """`ScopeError` for a text that is no pattern."""
        patterns = tuple(dict.fromkeys(parse_pattern(text) for text in texts))
        return cls(() if "*" in patterns else patterns)

    @property
    def are_all(self) -> bool:
        """Whether there is no limit."""
        return not self.patterns

    def include(self, topic: str) -> bool:
        """Whether this topic is among them. An empty name is only if all are."""
        return not self.patterns or any(matches(each, topic) for each in self.patterns)

    def __str__(self) -> str:
        return ",".join(self.patterns) or "*"


ALL_TOPICS = Topics()


@attrs.frozen(eq=False)
class Identity:
    """Whose a request is."""

    name: str = ""
    """Empty: unknown."""
    means: Means = Means.NONE
    role: Role = Role.STRANGER
    topics: Topics = ALL_TOPICS
    token: str = attrs.field(default="", repr=False)
    """Of the session, against forged requests; empty without a session."""
    ended: trio.Event = attrs.field(factory=trio.Event, repr=False)
    """Set when the request may go on no more: its user has logged out, or was removed or changed."""

    def __str__(self) -> str:
        """For logs: `session:alice`, `header:bob`, `anonymous`."""
        return f"{self.means.value}:{self.name}" if self.name else self.means.value

    @property
    def may_operate(self) -> bool:
        """Whether he may change topics and channels: those of his patterns."""
        return self.role >= Role.OPERATOR

    @property
    def may_operate_nodes(self) -> bool:
        """Whether he may change nodes, which have topics of all names."""
        return self.role >= Role.OPERATOR and self.topics.are_all

    @property
    def may_read_messages(self) -> bool:
        """Whether he may look into channels, and publish, finish and requeue."""
        return self.role >= Role.ADMIN

    @property
    def may_audit(self) -> bool:
        """Whether he may see who has done what, on topics of all names."""
        return self.role >= Role.ADMIN and self.topics.are_all


STRANGER = Identity()


def identity_of(request: Request) -> Identity:
    """Whose it is, as the check of its route has found out; a stranger's, on a route that is open to all."""
    found = request.identity
    return found if isinstance(found, Identity) else STRANGER
