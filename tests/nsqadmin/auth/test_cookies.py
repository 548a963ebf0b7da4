"""Cookies: those of a request, and those that the console sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth.cookies import cookie_name, cookies_in, is_encrypted, set_cookie
from tests.nsqadmin.asking import request


@pytest.mark.parametrize(
    ("headers", "cookies"),
    [
        ([], {}),
        ([(b"cookie", b"a=1; b=2")], {"a": "1", "b": "2"}),
        ([(b"cookie", b"a=1"), (b"cookie", b"b=2;a=3")], {"a": "3", "b": "2"}),
        ([(b"cookie", b"a=b=c")], {"a": "b=c"}),
        ([(b"cookie", b'{"strange": 1}; a=1')], {'{"strange": 1}': "", "a": "1"}),
        ([(b"set-cookie", b"a=1")], {}),
    ],
)
def test_cookies_are_found_whatever_others_there_are(
    headers: list[tuple[bytes, bytes]], cookies: dict[str, str]
) -> None:
    assert cookies_in(headers) == cookies


@given(st.lists(st.binary(max_size=50)))
def test_any_header_has_some_cookies(values: list[bytes]) -> None:
    found = cookies_in([*((b"cookie", value) for value in values), (b"cookie", b"last=1")])
    assert found["last"] == "1"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"console.example", "console_session"),
        (b"127.0.0.1:4171", "console_session_4171"),
        (b"[::1]:4172", "console_session_4172"),
        (b"[::1]", "console_session"),
        (b"a:x;y=z", "console_session"),
        (b"a:" + b"9" * 50, "console_session"),
    ],
)
def test_consoles_on_one_machine_have_different_cookies(host: bytes, name: str) -> None:
    assert cookie_name("session", request("1.1.1.1:1", (b"host", host))) == name


@given(st.binary(max_size=50))
def test_no_host_makes_a_name_that_is_none(host: bytes) -> None:
    assert cookie_name("session", request("1.1.1.1:1", (b"host", host))).replace("_", "").isalnum()


def test_a_cookie_is_for_the_server_alone() -> None:
    _, value = set_cookie("a", "1", path="/adm", secure=True)
    assert value == b"a=1; Path=/adm; HttpOnly; SameSite=Lax; Secure"
    assert set_cookie("a", "1", path="/", secure=False, same_site="Strict")[1].endswith(b"SameSite=Strict")
    assert set_cookie("a", "", path="/", secure=False)[1].endswith(b"; Max-Age=0")


@pytest.mark.parametrize(
    ("header", "encrypted"),
    [
        ((b"origin", b"https://console.example"), True),
        ((b"origin", b"http://console.example"), False),
        ((b"origin", b"null"), False),
        ((b"x-forwarded-proto", b"https"), True),
        ((b"x-forwarded-proto", b"http"), False),
        ((b"x-scheme", b"HTTPS"), True),
    ],
)
def test_what_the_browser_or_the_proxy_says_decides_about_secure(
    header: tuple[bytes, bytes], encrypted: bool
) -> None:
    assert is_encrypted(request("1.1.1.1:1", header)) == encrypted
