"""Users for tests: their passwords are hashed with parameters that take no time.

console = with_users(fake_console(...), user("ann", Role.VIEWER))
page = await fetch(console, "/", headers=logged_in(console, "ann"))
"""

from __future__ import annotations

import base64
import hashlib

import attrs

from nsqadmin.auth import ALL_TOPICS, Means, Role, Topics
from nsqadmin.auth.authentication import Authentication
from nsqadmin.auth.sessions import new_session_id
from nsqadmin.auth.users import User, UserFile, Users
from nsqadmin.console import Console

__all__ = ["PASSWORD", "logged_in", "logged_in_as", "quick_hash", "user", "user_file", "with_users"]

PASSWORD = "correct horse"


def quick_hash(password: str = PASSWORD) -> str:
    """A hash of the least memory and time."""
    digest = hashlib.scrypt(password.encode(), salt=bytes(16), n=2, r=1, p=1, dklen=32)
    salt, kept = (base64.b64encode(each).decode().rstrip("=") for each in (bytes(16), digest))
    return f"$scrypt$ln=1,r=1,p=1${salt}${kept}"


def user(name: str, role: Role = Role.VIEWER, *patterns: str, password: str = PASSWORD) -> User:
    """A user, who is limited to topics of these patterns."""
    topics = Topics.parse(patterns) if patterns else ALL_TOPICS
    return User(name, role, quick_hash(password), topics, 1_790_000_000.0)


def user_file(*users: User) -> UserFile:
    """A file that was read."""
    file = UserFile("users")
    file.content = Users(users)
    return file


def with_users(console: Console, *users: User) -> Console:
    """The console, to which these have to log in."""
    console.options.users_file = "users"
    console.authentication = Authentication(console.options, user_file(*users))
    return console


def logged_in(console: Console, name: str, port: int | None = None) -> dict[str, str]:
    """The headers of a browser in which this user has logged in. `port`: of the console, if it is in its address."""
    assert console.authentication.users is not None
    return logged_in_as(console, console.authentication.users.users.by_name[name], port)


def logged_in_as(console: Console, user: User, port: int | None = None) -> dict[str, str]:
    """The same for any user."""
    sessions, session_id = console.authentication.sessions, new_session_id()
    sessions.open(attrs.evolve(user), Means.SESSION, sessions.key_of(session_id.encode()))
    name = "console_session" if port is None else f"console_session_{port}"
    return {"Cookie": f"{name}={session_id}"}
