"""Checking names and passwords: what is refused, slowed down and logged."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsqadmin.auth import Role
from nsqadmin.auth.logins import LoginFailed, Logins, TooManyTries
from nsqadmin.auth.passwords import PasswordChecks
from nsqadmin.auth.throttle import FREE_TRIES
from nsqadmin.auth.users import Users
from tests.nsqadmin.auth.people import PASSWORD, quick_hash, user, user_file

ALICE = user("alice", Role.ADMIN)
HERE = "10.0.0.1"


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> Logins:
    """Whose checks of names that nobody has take no time."""
    of_user = PasswordChecks.matches

    async def matches(self: PasswordChecks, kept: str | None, password: str) -> bool:
        return await of_user(self, kept or quick_hash("of nobody"), password)

    monkeypatch.setattr(PasswordChecks, "matches", matches)
    return Logins(user_file(ALICE))


async def test_a_user_is_found_by_name_and_password(logins: Logins) -> None:
    assert await logins.check("alice", PASSWORD, HERE) is ALICE


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", "wrong"), ("alice", ""), ("Alice", PASSWORD), ("bob", PASSWORD), ("", ""), ("a" * 10**6, "x")],
)
async def test_what_is_wrong_is_not_told(logins: Logins, name: str, password: str) -> None:
    with pytest.raises(LoginFailed) as error:
        await logins.check(name, password, HERE)
    assert str(error.value) == ""


async def test_guessing_is_slowed_down_and_logged(logins: Logins, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(FREE_TRIES):
        with pytest.raises(LoginFailed):
            await logins.check("alice", "guess", HERE)
    with pytest.raises(TooManyTries) as early:
        await logins.check("alice", PASSWORD, HERE)
    assert 0 < early.value.wait_s <= 1
    first = caplog.records[0]
    assert (first.levelname, first.getMessage()) == ("WARNING", f"LOGIN: failed: alice from {HERE}")


async def test_a_name_that_nobody_has_is_slowed_down_as_well_and_not_logged(
    logins: Logins, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a password that was typed into the wrong field."""
    for _ in range(FREE_TRIES):
        with pytest.raises(LoginFailed):
            await logins.check("hunter2!", "guess", HERE)
    with pytest.raises(TooManyTries):
        await logins.check("hunter2!", "guess", HERE)
    assert "LOGIN: failed: a name that no user has from" in caplog.text
    assert "hunter2" not in caplog.text
    assert "guess" not in caplog.text


async def test_a_stream_of_failures_is_a_line_a_second(
    logins: Logins, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    for number in range(10):
        with pytest.raises((LoginFailed, TooManyTries)):
            await logins.check("alice", "guess", f"10.0.0.{number}")
    assert len(caplog.records) == 1
    mock_clock.jump(1)
    with pytest.raises((LoginFailed, TooManyTries)):
        await logins.check("alice", "guess", "10.0.1.1")
    assert "(and 9 more since the last such line)" in caplog.text


async def test_a_user_who_was_changed_while_his_password_was_checked_is_refused(
    logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def matches(self: PasswordChecks, kept: str | None, password: str) -> bool:
        logins.file.content = Users([user("alice", Role.VIEWER)])
        return True

    monkeypatch.setattr(PasswordChecks, "matches", matches)
    with pytest.raises(LoginFailed):
        await logins.check("alice", PASSWORD, HERE)


async def test_while_too_many_wait_a_try_is_refused_and_does_not_count(
    logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PasswordChecks, "are_full", True)
    for _ in range(FREE_TRIES + 1):
        with pytest.raises(TooManyTries):
            await logins.check("alice", PASSWORD, HERE)
    monkeypatch.setattr(PasswordChecks, "are_full", False)
    assert await logins.check("alice", PASSWORD, HERE) is ALICE
