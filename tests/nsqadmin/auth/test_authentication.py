"""Whose a request is: each way to find out, and which one decides."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth import Role
from nsqadmin.auth.authentication import Authentication, basic_credentials, user_in_header
from nsqadmin.auth.logins import LoginFailed, TooManyTries
from nsqadmin.auth.passwords import PasswordChecks
from nsqadmin.auth.throttle import FREE_TRIES
from nsqadmin.auth.users import Users, add, change
from nsqadmin.options import AdminOptions
from tests.nsqadmin.asking import request
from tests.nsqadmin.auth.people import PASSWORD, user, user_file

Header = tuple[bytes, bytes]
USER = b"x-forwarded-user"
HERE = "10.0.0.1:5"


def without_users(**options: object) -> Authentication:
    return Authentication(AdminOptions(**options), None)


def with_alice(*, admin_users: Sequence[str] = ()) -> Authentication:
    options = AdminOptions(users_file="users", admin_users=list(admin_users))
    return Authentication(options, user_file(user("alice", Role.OPERATOR, "orders")))


async def role_of(authentication: Authentication, *headers: Header) -> Role:
    return (await authentication.identify(request(HERE, *headers))).role


def basic(name: str, password: str) -> Header:
    return b"authorization", b"Basic " + base64.b64encode(f"{name}:{password}".encode())


async def cookie(authentication: Authentication) -> Header:
    session_id = await authentication.log_in(request(HERE), "alice", PASSWORD)
    return b"cookie", f"console_session={session_id}".encode()


class TestTrustedHeader:
    """Without users it is the only way, and as in the original."""

    async def test_without_a_list_every_user_is_an_administrator(self) -> None:
        assert await role_of(without_users()) is Role.ADMIN
        assert await role_of(without_users(), (USER, b"eve")) is Role.ADMIN

    async def test_with_a_list_the_header_must_name_an_administrator(self) -> None:
        authentication = without_users(admin_users=["ann", "zoé"])
        assert await role_of(authentication, (b"host", b"x"), (USER, b"ann")) is Role.ADMIN
        assert await role_of(authentication, (USER, "zoé".encode())) is Role.ADMIN
        for headers in ([], [(USER, b"")], [(USER, b"Ann")], [(USER, b"ann ")], [(b"user", b"ann")]):
            assert await role_of(authentication, *headers) is Role.VIEWER

    async def test_the_name_of_the_header_is_an_option(self) -> None:
        authentication = without_users(admin_users=["ann"], acl_http_header="X-Who")
        assert await role_of(authentication, (b"x-who", b"ann")) is Role.ADMIN
        assert await role_of(authentication, (USER, b"ann")) is Role.VIEWER

    async def test_a_request_with_two_such_headers_has_no_user(self) -> None:
        authentication = without_users(admin_users=["ann"])
        assert await role_of(authentication, (USER, b"eve"), (USER, b"ann")) is Role.VIEWER
        assert await role_of(authentication, (USER, b"ann"), (USER, b"ann")) is Role.VIEWER
        assert user_in_header("X-Forwarded-User", [(USER, b"ann"), (USER, b"ann")]) == ""

    async def test_an_identity_has_the_name_that_the_proxy_says(self) -> None:
        named = await without_users().identify(request(HERE, (USER, b"bob")))
        assert str(named) == "header:bob"
        assert str(await without_users().identify(request(HERE))) == "anonymous"

    async def test_with_users_a_header_is_not_trusted_unless_there_is_a_list(self) -> None:
        assert await role_of(with_alice(), (USER, b"alice")) is Role.STRANGER
        listed = with_alice(admin_users=["ann"])
        assert await role_of(listed, (USER, b"ann")) is Role.ADMIN
        assert await role_of(listed, (USER, b"bob")) is Role.VIEWER
        assert await role_of(listed) is Role.STRANGER


class TestSessions:
    """After a login."""

    async def test_a_request_with_the_cookie_is_the_user_s(self) -> None:
        authentication = with_alice(admin_users=["ann"])
        cookies = await cookie(authentication)
        identity = await authentication.identify(request(HERE, cookies, (USER, b"ann")))
        assert str(identity) == "session:alice"
        assert (identity.role, str(identity.topics)) == (Role.OPERATOR, "orders")

    @pytest.mark.parametrize(
        "value", [b"", b"console_session=", b"console_session=x", b"console_session=\xff"]
    )
    async def test_another_cookie_is_a_stranger_s(self, value: bytes) -> None:
        authentication = with_alice()
        await cookie(authentication)
        assert await role_of(authentication, (b"cookie", value)) is Role.STRANGER

    async def test_a_new_login_ends_the_session_before(self) -> None:
        authentication = with_alice()
        before = await cookie(authentication)
        await authentication.log_in(request(HERE, before), "alice", PASSWORD)
        assert await role_of(authentication, before) is Role.STRANGER

    async def test_a_logout_ends_the_session(self) -> None:
        authentication = with_alice()
        cookies = await cookie(authentication)
        authentication.log_out(request(HERE, cookies))
        assert await role_of(authentication, cookies) is Role.STRANGER
        authentication.log_out(request(HERE))

    async def test_a_wrong_password_begins_none(self) -> None:
        authentication = with_alice()
        with pytest.raises(LoginFailed):
            await authentication.log_in(request(HERE), "alice", "wrong password")
        assert len(authentication.sessions) == 0

    async def test_a_password_that_came_unencrypted_is_warned_of_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        authentication = with_alice()
        for remote, header in (
            ("127.0.0.1:5", (b"host", b"a")),
            (HERE, (b"origin", b"https://console.example")),
            (HERE, (b"x-forwarded-proto", b"https")),
        ):
            await authentication.log_in(request(remote, header), "alice", PASSWORD)
        assert not [each for each in caplog.records if each.levelname == "WARNING"]
        for _ in range(2):
            await authentication.log_in(request(HERE), "alice", PASSWORD)
        [warning] = [each for each in caplog.records if each.levelname == "WARNING"]
        assert "a password has come unencrypted from 10.0.0.1" in warning.getMessage()


class TestBasic:
    """Name and password in each request."""

    async def test_a_request_with_them_is_the_user_s(self) -> None:
        identity = await with_alice().identify(request(HERE, basic("alice", PASSWORD)))
        assert (str(identity), identity.role) == ("basic:alice", Role.OPERATOR)

    async def test_a_password_is_checked_once_and_then_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checked = 0

        async def matches(self: PasswordChecks, kept: str | None, password: str) -> bool:
            nonlocal checked
            checked += 1
            await trio.lowlevel.checkpoint()
            return password == PASSWORD

        monkeypatch.setattr(PasswordChecks, "matches", matches)
        authentication = with_alice()
        async with trio.open_nursery() as nursery:
            for _ in range(FREE_TRIES * 3):
                nursery.start_soon(role_of, authentication, basic("alice", PASSWORD))
        assert checked == 1
        with pytest.raises(LoginFailed):
            await role_of(authentication, basic("alice", PASSWORD + "!"))
        assert checked == 2

    async def test_a_user_who_is_removed_is_known_no_more(self) -> None:
        authentication = with_alice()
        assert authentication.users is not None
        identity = await authentication.identify(request(HERE, basic("alice", PASSWORD)))
        authentication.users.content = Users()
        authentication._end_sessions()
        assert identity.ended.is_set()
        with pytest.raises(LoginFailed):
            await role_of(authentication, basic("alice", PASSWORD))

    async def test_guessing_is_slowed_down_also_with_many_requests_at_once(self) -> None:
        authentication = with_alice()
        outcomes: list[type[Exception]] = []

        async def guess(password: str) -> None:
            try:
                await role_of(authentication, basic("alice", password))
            except (LoginFailed, TooManyTries) as error:
                outcomes.append(type(error))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(guess, f"guess {number % 10}")
        assert outcomes.count(LoginFailed) == FREE_TRIES
        assert len(outcomes) == 20

    async def test_a_token_of_something_else_is_no_password(self) -> None:
        assert await role_of(with_alice(), (b"authorization", b"Bearer nsq_x")) is Role.STRANGER

    async def test_a_proxy_that_is_trusted_may_pass_on_its_own(self) -> None:
        authentication = with_alice(admin_users=["ann"])
        assert await role_of(authentication, (USER, b"ann"), basic("ann", "of the proxy")) is Role.ADMIN


@pytest.mark.parametrize(
    ("value", "credentials"),
    [
        (b"Basic YTpi", ("a", "b")),
        (b"basic  YTpi ", ("a", "b")),
        (b"Basic YTpiOmM=", ("a", "b:c")),
        (b"Basic Og==", ("", "")),
        (b"Basic YQ==", None),
        (b"Basic YTpi!", None),
        (b"Basic YTr/", None),
        (b"Basic", None),
        (b"Bearer YTpi", None),
        (b"", None),
    ],
)
def test_credentials_are_name_and_password(value: bytes, credentials: tuple[str, str] | None) -> None:
    assert basic_credentials(value) == credentials


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda data: b"Basic " + base64.b64encode(data)))
def test_any_header_has_credentials_or_none(value: bytes) -> None:
    found = basic_credentials(value)
    assert found is None or value[:5].lower() == b"basic"


async def test_a_change_of_the_file_ends_sessions(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    path = str(tmp_path / "users")
    add(path, user("alice", Role.OPERATOR))
    authentication = Authentication.of_options(AdminOptions(users_file=path))
    cookies = await cookie(authentication)
    identity = await authentication.identify(request(HERE, cookies))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(authentication.run)
        change(path, "alice", role=Role.VIEWER)
        mock_clock.rate = 100
        await identity.ended.wait()
        nursery.cancel_scope.cancel()
    assert await role_of(authentication, cookies) is Role.STRANGER
    assert await role_of(authentication, basic("alice", PASSWORD)) is Role.VIEWER


async def test_without_users_there_is_nothing_to_watch() -> None:
    await without_users().run()
