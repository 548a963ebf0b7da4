"""Checking a name and a password: slowed down by failures, as slow for a name that nobody has, and logged."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from nsqadmin.auth.passwords import PasswordChecks
from nsqadmin.auth.throttle import Throttle
from nsqadmin.auth.users import User, UserFile
from nsqkit.logging import RateLimitedLogger, get_logger

__all__ = ["LoginFailed", "Logins", "TooManyTries"]

_MAX_NAME: Final = 64
"""Characters; longer names are nobody's."""


class LoginFailed(Exception):
    """There is no user of this name and password. Which of the two is wrong is not told."""


class TooManyTries(Exception):
    """No try may be made now."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the next try may be made in {wait_s:.0f} s")
        self.wait_s = wait_s


@attrs.define(eq=False)
class Logins:
    """Checks the users of a file."""

    file: UserFile
    throttle: Throttle = attrs.field(factory=Throttle)
    _checks: PasswordChecks = attrs.field(factory=PasswordChecks, init=False)
    _log: RateLimitedLogger = attrs.field(
        factory=lambda: RateLimitedLogger(get_logger("nsqadmin.auth")), init=False
    )

    async def check(self, name: str, password: str, address: str) -> User:
        """The user. `address`: of the client, see `throttle.address_of`. `LoginFailed`, `TooManyTries`."""
        name = name[: _MAX_NAME + 1]
        user = self.file.users.by_name.get(name)
        # Something that is no user's name may be a password in the wrong field.
        who = "a name that no user has" if user is None else name
        if self._checks.are_full:
            self._warn("refused, as too many others are being checked", who, address)
            raise TooManyTries(1.0)
        wait_s = self.throttle.begin(name, address, trio.current_time())
        if wait_s > 0:
            self._warn("refused without a look at the password, after too many failures", who, address)
            raise TooManyTries(wait_s)
        is_right = await self._checks.matches(None if user is None else user.password, password)
        # The file may have changed meanwhile: this user would keep what others have lost.
        if user is None or not is_right or not self.file.users.has(user):
            self._warn("failed", who, address)
            raise LoginFailed
        self.throttle.succeeded(name, address)
        return user

    def _warn(self, what: str, who: str, address: str) -> None:
        self._log.log(trio.current_time(), "LOGIN: %s: %s from %s", what, who, address)
