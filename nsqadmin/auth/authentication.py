"""The one place that finds out whose a request is.

Each way to find out is a `Way`; the first one that recognizes a request decides. Another one (OpenID Connect, say)
would be one more class here, which makes sessions as the login page does.

Without users (`--users-file`) there is one way, and it recognizes every request: the header of a trusted proxy. With
`--admin-user` those who are named there are admins and all others viewers; without it everybody is an admin.

With users:

1. The cookie of a session says which user it is.
2. The header, if a request has it, and only with `--admin-user`: otherwise there is no proxy that could be trusted.
3. `Authorization: Basic` has name and password of a user.
4. All others are strangers, and have to log in.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs
import trio

from nsqadmin.auth.cookies import cookie_name, cookies_in, is_encrypted
from nsqadmin.auth.identity import STRANGER, Identity, Means, Role
from nsqadmin.auth.logins import Logins
from nsqadmin.auth.sessions import Sessions, new_session_id
from nsqadmin.auth.throttle import address_of, is_this_machine
from nsqadmin.auth.users import UserFile
from nsqadmin.options import AdminOptions
from nsqkit.file_watch import FileWatch
from nsqkit.logging import get_logger
from nsqkit.options import SECOND
from nsqkit.service.http import Request

__all__ = ["Authentication", "Way", "basic_credentials", "session_cookie", "user_in_header"]

_log = get_logger("nsqadmin.auth")


class Way(Protocol):
    """A way to find out whose a request is."""

    async def identify(self, request: Request) -> Identity | None:
        """Whose it is; None if it has nothing of this kind. `LoginFailed` if what it has is wrong, `TooManyTries`."""


@attrs.frozen
class TrustedHeader:
    """The header of an authenticating proxy."""

    options: AdminOptions

    async def identify(self, request: Request) -> Identity | None:
        """Recognizes every request, unless there are users, who can log in instead."""
        name = user_in_header(self.options.acl_http_header, request.headers)
        if self.options.users_file and not (name and self.options.admin_users):
            return None
        is_admin = not self.options.admin_users or name in self.options.admin_users
        return Identity(name, Means.HEADER if name else Means.NONE, Role.ADMIN if is_admin else Role.VIEWER)


@attrs.frozen
class SessionCookie:
    """The cookie of a session."""

    sessions: Sessions

    async def identify(self, request: Request) -> Identity | None:
        """Recognizes requests of browsers that have logged in."""
        return self.sessions.find(session_key(self.sessions, request))


@attrs.define(eq=False)
class BasicPassword:
    """Name and password in each request. They are checked once, and then known as those of a session."""

    logins: Logins
    sessions: Sessions
    _checks: dict[bytes, trio.Event] = attrs.field(factory=dict, init=False)
    """Those that run."""

    async def identify(self, request: Request) -> Identity | None:
        """Recognizes requests of scripts."""
        header = request.header(b"authorization")
        credentials = None if header is None else basic_credentials(header)
        if header is None or credentials is None:
            return None
        key = self.sessions.key_of(header)
        # A script may send many requests at once: they are one try to log in.
        while (running := self._checks.get(key)) is not None:
            await running.wait()
        return self.sessions.find(key) or await self._log_in(request, key, *credentials)

    async def _log_in(self, request: Request, key: bytes, name: str, password: str) -> Identity:
        done = self._checks[key] = trio.Event()
        try:
            user = await self.logins.check(name, password, client_address(request))
        finally:
            del self._checks[key]
            done.set()
        return self.sessions.open(user, Means.BASIC, key)


@attrs.define(eq=False)
class Authentication:
    """Finds out whose requests are, by the ways that the options open."""

    options: AdminOptions
    users: UserFile | None
    """None: there is no login."""
    sessions: Sessions = attrs.field(init=False)
    on_users_change: Callable[[], object] = attrs.field(default=lambda: None, init=False)
    """Called when users have changed."""
    _logins: Logins | None = attrs.field(init=False)
    _ways: Sequence[Way] = attrs.field(init=False)
    _watch: FileWatch | None = attrs.field(init=False)
    _has_warned: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        options = self.options
        self.sessions = Sessions(options.session_idle_timeout / SECOND, options.session_lifetime / SECOND)
        self._logins = None if self.users is None else Logins(self.users)
        self._watch = None if self.users is None else FileWatch(self.users, self._end_sessions)
        header = TrustedHeader(options)
        if self._logins is None:
            self._ways = (header,)
        else:
            # The header before Basic: a proxy passes on what it has authenticated by.
            self._ways = (
                SessionCookie(self.sessions),
                header,
                BasicPassword(self._logins, self.sessions),
            )

    @classmethod
    def of_options(cls, options: AdminOptions) -> Authentication:
        """With the users of the file that the options name. `UserFileError`."""
        if not options.users_file:
            return cls(options, None)
        file = UserFile(options.users_file)
        file.load()
        return cls(options, file)

    async def identify(self, request: Request) -> Identity:
        """Whose a request is. `LoginFailed`, `TooManyTries`."""
        for way in self._ways:
            identity = await way.identify(request)
            if identity is not None:
                return identity
        return STRANGER

    async def log_in(self, request: Request, name: str, password: str) -> str:
        """Begin a session, in place of the one that the request has: its id. `LoginFailed`, `TooManyTries`."""
        assert self._logins is not None, "there is no login without users"
        address = client_address(request)
        user = await self._logins.check(name, password, address)
        self._warn_of_plain_http(request, address)
        self.log_out(request)
        session_id = new_session_id()
        self.sessions.open(user, Means.SESSION, self.sessions.key_of(session_id.encode()))
        _log.info("LOGIN: %s (%s) from %s", user.name, user.role, address)
        return session_id

    def _warn_of_plain_http(self, request: Request, address: str) -> None:
        """Once, when a password has come over a network and no browser or proxy says that it was encrypted."""
        if self._has_warned or is_encrypted(request) or is_this_machine(address):
            return
        self._has_warned = True
        _log.warning(
            "LOGIN: a password has come unencrypted from %s; put a proxy with TLS in front of the console",
            address,
        )

    def knows(self, name: str) -> bool:
        """Whether there is a user with this name."""
        return self.users is not None and name in self.users.users.by_name

    @property
    def has_logins(self) -> bool:
        """Whether there are users who can log in."""
        return self._logins is not None

    def session_of(self, request: Request) -> Identity | None:
        """Whose session the cookie of a request is for."""
        return self.sessions.find(session_key(self.sessions, request))

    def log_out(self, request: Request) -> None:
        """End the session of a request, if it has one."""
        self.sessions.end(session_key(self.sessions, request))

    def hang_up(self) -> None:
        """Read the file of users again, also if it seems to be unchanged: what SIGHUP asks for."""
        if self._watch is not None:
            self._watch.hang_up()

    async def run(self) -> None:
        """Watch the file of users, and end sessions when their time is over, until cancelled."""
        if self._watch is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.run)
            nursery.start_soon(self.sessions.run)

    def _end_sessions(self) -> None:
        """Of users who were removed or changed."""
        assert self.users is not None
        self.on_users_change()
        if ended := self.sessions.keep_only(self.users.users):
            _log.info("LOGIN: sessions ended, as their users were removed or changed: %d", ended)


def user_in_header(header: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The name of the user, as the proxy sent it; empty if there is none."""
    name = header.lower().encode()
    values = [value for key, value in headers if key == name]
    # If there are two, one was sent by the client, and it is not known which.
    return values[0].decode("utf-8", "replace") if len(values) == 1 else ""


def session_cookie(request: Request) -> str:
    """The name of the cookie that has the id of a session."""
    return cookie_name("session", request)


def session_key(sessions: Sessions, request: Request) -> bytes:
    """The key of the session that the cookie of a request is for; nobody's, if it has none."""
    session_id = cookies_in(request.headers).get(session_cookie(request), "")
    return sessions.key_of(session_id.encode("latin-1"))


def client_address(request: Request) -> str:
    """Of the client, for counting."""
    forwarded = [value for name, value in request.headers if name == b"x-forwarded-for"]
    return address_of(request.remote, forwarded[-1] if forwarded else None)


def basic_credentials(authorization: bytes) -> tuple[str, str] | None:
    """Name and password in the value of the header; None if it is of another kind, or malformed."""
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        decoded = binascii.a2b_base64(rest.strip(), strict_mode=True).decode()
    except ValueError:  # binascii.Error is one, and so is what UTF-8 raises
        return None
    name, colon, password = decoded.partition(":")
    return (name, password) if colon else None
