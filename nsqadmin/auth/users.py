"""Users: what one is made of, the text of a file of users, and the changes that `nsqadmin user` makes to it.

The file (see `nsqkit.access.shared_file`) has a line for each:

    {"name":"alice","role":"operator","topics":["orders.*"],"password":"$scrypt$...","password_set":"2026-12-01T12:00:00Z"}
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from nsqadmin.auth.identity import ALL_TOPICS, MAX_PATTERNS, Role, Topics
from nsqadmin.auth.passwords import is_hash
from nsqkit.access.scopes import ScopeError
from nsqkit.access.shared_file import (
    ContentError,
    Kind,
    SharedFile,
    fields_of,
    is_comment,
    parse_lines,
    shown,
    told_as,
    with_line,
)
from nsqkit.access.tokens import TokenError, checked_name, parsed_time, shown_time
from nsqkit.options import did_you_mean

__all__ = [
    "MAX_USERS",
    "ROLES",
    "User",
    "UserFile",
    "UserFileError",
    "Users",
    "add",
    "change",
    "checked_name",
    "remove",
]

MAX_USERS: Final = 1_000
"""Of one file."""
ROLES: Final = {str(role): role for role in Role if role is not Role.STRANGER}
"""By their names."""
_FIELDS: Final = frozenset({"name", "role", "topics", "password", "password_set"})


class UserFileError(Exception):
    """The file cannot be read or written; the text, with its path, is for the operator."""


@attrs.frozen
class User:
    """A user as the file has him."""

    name: str
    role: Role
    password: str = attrs.field(repr=False)
    """Its hash."""
    topics: Topics = ALL_TOPICS
    password_set: float = 0.0
    """Seconds since 1970."""

    def line(self) -> bytes:
        """His line in the file."""
        fields = {
            "name": self.name,
            "role": str(self.role),
            "topics": list(self.topics.patterns) or None,
            "password": self.password,
            "password_set": shown_time(self.password_set),
        }
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> User:
        """`ContentError`."""
        given = fields_of(line, _FIELDS)
        role, password = given.get("role"), given.get("password")
        if not isinstance(role, str) or role not in ROLES:
            raise ContentError(f"role {shown(role)}: must be one of {', '.join(ROLES)}")
        if not isinstance(password, str) or not is_hash(password):
            raise ContentError("password must be a hash that `nsqadmin user` has made")
        try:
            return cls(
                name=checked_name(given.get("name")),
                role=ROLES[role],
                password=password,
                topics=_topics(given.get("topics")),
                password_set=parsed_time("password_set", given.get("password_set")),
            )
        except (TokenError, ScopeError) as error:
            raise ContentError(str(error)) from None


def _topics(given: Any) -> Topics:
    if given is None:
        return ALL_TOPICS
    # An empty list would mean all of them, which somebody who has written one did not mean.
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise ContentError("topics must be null, or a list of patterns, one at least")
    if len(given) > MAX_PATTERNS:
        raise ContentError(f"{len(given)} patterns are more than {MAX_PATTERNS}")
    return Topics.parse(given)


class Users:
    """All users of a file, in its order. `ContentError` for two of one name, and for too many."""

    def __init__(self, users: Iterable[User] = ()) -> None:
        self.by_name: dict[str, User] = {}
        for user in users:
            if user.name in self.by_name:
                raise ContentError(f"two users have the name {user.name!r}")
            self.by_name[user.name] = user
        if len(self) > MAX_USERS:
            raise ContentError(f"{len(self)} users are more than {MAX_USERS}")

    @classmethod
    def parse(cls, data: bytes) -> Users:
        """The users of a file's bytes. `ContentError` names the line."""
        return cls(parse_lines(data, User.parse))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.by_name)

    def has(self, user: User) -> bool:
        """Whether this very user, unchanged, is among them."""
        return self.by_name.get(user.name) == user


_KIND: Final = Kind(
    noun="users",
    parse=Users.parse,
    mode=0o600,  # the hash of a weak password is as good as the password
    warnings={
        stat.S_IWOTH: "every user of this machine may write it, and so make himself an admin of the console",
        stat.S_IROTH: "every user of this machine may read the hashes of passwords in it: chmod o-r",
    },
)


@attrs.define(eq=False)
class UserFile(SharedFile[Users]):
    """The users of a file, as the console has them."""

    kind: Kind[Users] = attrs.field(default=_KIND, init=False)

    @property
    def users(self) -> Users:
        """Those of the last content that could be read."""
        return self.content

    def load(self) -> None:
        """Read it for the first time. `UserFileError`."""
        with told_as(UserFileError, self.path):
            SharedFile.load(self)


def add(path: str, user: User) -> None:
    """Add a user, to a new file if there is none. `UserFileError`, also if it has one of this name."""

    def with_user(data: bytes) -> bytes:
        if user.name in Users.parse(data).by_name:
            raise ContentError(f"a user has the name {user.name!r} already")
        return with_line(data, user.line())

    with told_as(UserFileError, path):
        _KIND.rewrite(path, with_user, create=True)


def change(path: str, name: str, **values: Any) -> None:
    """Change a user: his `role`, `topics`, or `password` with `password_set`. `UserFileError`."""
    _rewrite_line(path, name, lambda user: attrs.evolve(user, **values).line())


def remove(path: str, name: str) -> None:
    """Remove a user. `UserFileError`, also if there is none of this name."""
    _rewrite_line(path, name, lambda _: b"")


def _rewrite_line(path: str, name: str, rewritten: Callable[[User], bytes]) -> None:
    def rewrite(line: bytes) -> bytes:
        if is_comment(line):
            return line
        user = User.parse(line.strip())
        return rewritten(user) if user.name == name else line

    def with_change(data: bytes) -> bytes:
        if name not in (users := Users.parse(data)).by_name:
            raise ContentError(f"no user has the name {name!r}{did_you_mean(name, users.by_name)}")
        return b"".join(map(rewrite, data.splitlines(keepends=True)))

    with told_as(UserFileError, path):
        _KIND.rewrite(path, with_change)
