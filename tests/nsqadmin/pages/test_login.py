"""The page to log in, what its form does, and logging out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.auth import Role
from nsqadmin.auth.throttle import FREE_TRIES
from nsqadmin.pages.login import form_of, local_target
from nsqkit.service.http import HttpError
from tests.nsqadmin.auth.people import PASSWORD, user, with_users
from tests.nsqadmin.pages.reading import HtmlPage
from tests.nsqadmin.scripted import dead_address
from tests.nsqadmin.serving import Browser, serving


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Keeps cookies."""
    async with serving(nsqds=[dead_address()], base_path="/adm") as browser:
        with_users(browser.console, user("ann", Role.ADMIN))
        yield browser


def form(**fields: str) -> bytes:
    return urlencode(fields).encode()


async def log_in(browser: Browser, password: str = PASSWORD, **more: str) -> httpx.Response:
    page = HtmlPage(await browser.get("/adm/login"))
    token = page.one("input", name="token")["value"]
    body = form(**{"name": "ann", "password": password, "token": token, "next": "/adm/nodes", **more})
    headers = {"Origin": f"http://{browser.address}", "Content-Type": "application/x-www-form-urlencoded"}
    return await browser.ask("POST", "/adm/login", body, headers)


async def test_a_login_leads_to_the_page_that_was_asked_for(browser: Browser) -> None:
    assert (await browser.get("/adm/nodes")).status_code == 303
    response = await log_in(browser)
    assert (response.status_code, response.headers["location"]) == (303, "/adm/nodes")
    assert response.headers["cache-control"] == "no-store"
    page = HtmlPage(await browser.get("/adm/nodes"))
    assert page.one("form", action="/adm/logout").text == "ann"
    again = await browser.get("/adm/login?next=/adm/lookup")
    assert (again.status_code, again.headers["location"]) == (303, "/adm/lookup")


async def test_the_cookie_of_a_session_is_out_of_the_reach_of_scripts(browser: Browser) -> None:
    port = browser.address.rpartition(":")[2]
    [session] = [each for each in (await log_in(browser)).headers.get_list("set-cookie") if "session" in each]
    assert session.startswith(f"console_session_{port}=")
    assert session.endswith("; Path=/adm; HttpOnly; SameSite=Lax")


async def test_behind_tls_the_cookie_is_for_tls_only(browser: Browser) -> None:
    body = form(name="ann", password=PASSWORD)
    headers = {"Origin": f"https://{browser.address}", "X-Forwarded-Proto": "https"}
    response = await browser.ask("POST", "/adm/login", body, headers)
    assert all("; Secure" in each for each in response.headers.get_list("set-cookie"))
    assert len(response.headers.get_list("set-cookie")) == 2


async def test_a_wrong_password_is_told_and_nothing_else(browser: Browser) -> None:
    for password, name in (("wrong", "ann"), (PASSWORD, "bob")):
        response = await log_in(browser, password, name=name)
        page = HtmlPage(response)
        assert response.status_code == 403
        assert page.one("p", role="alert").text == "Wrong name or password."
        assert page.one("input", name="name")["value"] == name
        assert page.one("input", name="next")["value"] == "/adm/nodes"
        assert "value" not in page.one("input", name="password").attributes
    assert (await browser.get("/adm/nodes")).status_code == 303


async def test_many_tries_are_slowed_down(browser: Browser) -> None:
    for _ in range(FREE_TRIES):
        assert (await log_in(browser, "wrong")).status_code == 403
    response = await log_in(browser)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert "Too many tries" in response.text


async def test_a_logout_ends_the_session_for_all_windows(browser: Browser) -> None:
    await log_in(browser)
    cookies = dict(browser.client.cookies)
    [open_session] = browser.console.authentication.sessions._by_key.values()
    token = HtmlPage(await browser.get("/adm")).one("form", "input", name="token")["value"]
    headers = {"Origin": f"http://{browser.address}"}
    response = await browser.ask("POST", "/adm/logout", form(token=token), headers)
    assert (response.status_code, response.headers["location"]) == (303, "/adm/login")
    assert "Max-Age=0" in response.headers["set-cookie"]
    assert open_session.identity.ended.is_set()
    browser.client.cookies.update(cookies)
    assert (await browser.get("/adm")).status_code == 303
    response = await browser.ask("POST", "/adm/logout", b"", headers)
    # Also what a page of another site sends: it does not have the cookie, and must not take it away.
    assert (response.status_code, response.headers.get("set-cookie")) == (303, None)


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
async def test_another_site_can_neither_log_in_nor_out(browser: Browser, headers: dict[str, str]) -> None:
    body = form(name="ann", password=PASSWORD, token="x" * 32)
    assert (await browser.ask("POST", "/adm/login", body, headers)).status_code == 403
    await log_in(browser)
    assert (await browser.ask("POST", "/adm/logout", b"", headers)).status_code == 403
    assert (await browser.get("/adm")).status_code == 200


async def test_behind_a_proxy_with_another_name_the_form_has_a_token(browser: Browser) -> None:
    page = HtmlPage(await browser.get("/adm/login"))
    shown = page.one("input", name="token")["value"]
    headers = {"Origin": "https://console.example"}
    for sent, status in (("x" * 32, 403), ("", 403), (shown, 303)):
        body = form(name="ann", password=PASSWORD, token=sent)
        assert (await browser.ask("POST", "/adm/login", body, headers)).status_code == status
    browser.client.cookies.clear()
    body = form(name="ann", password=PASSWORD, token=shown)
    assert (await browser.ask("POST", "/adm/login", body, headers)).status_code == 403, "no cookie"


@pytest.mark.parametrize("next_", ["https://evil.example/", "//evil.example", "/adm", "/other", "/adm/a b"])
async def test_a_login_leads_nowhere_else(browser: Browser, next_: str) -> None:
    assert (await log_in(browser, next=next_)).headers["location"] == "/adm"


async def test_a_console_without_users_has_no_login() -> None:
    async with serving(nsqds=[dead_address()]) as browser:
        for method in ("GET", "POST"):
            response = await browser.ask(method, "/login", b"name=a&password=b" if method == "POST" else None)
            assert (response.status_code, response.headers["location"]) == (303, "/")
        page = HtmlPage(await browser.get("/"))
        assert page.all("form", action="/logout") == []


async def test_strangers_are_told_no_version(browser: Browser) -> None:
    response = await browser.get("/adm/login")
    assert browser.console.version not in response.text
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("text", "base_path", "is_local"),
    [
        ("/", "", True),
        ("/topics/a?q=1", "", True),
        ("/adm", "/adm", True),
        ("/adm/x", "/adm", True),
        ("/adm?x=1", "/adm", True),
        ("/admin", "/adm", False),
        ("/", "/adm", False),
        ("", "", False),
        ("topics", "", False),
        ("//evil.example", "", False),
        ("/\\evil.example", "", False),
        ("/\t/evil.example", "", False),
        ("/a\r\nSet-Cookie: x=1", "", False),
        ("/ü", "", False),
        ("/" + "a" * 2001, "", False),
    ],
)
def test_a_target_is_a_path_of_this_console(text: str, base_path: str, is_local: bool) -> None:
    assert local_target(text, base_path) == (text if is_local else "")


@pytest.mark.parametrize("body", [b"\xff", b"a=%FF", b"&".join(b"%d=1" % number for number in range(11))])
def test_a_form_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(HttpError, match="400 INVALID_BODY"):
        form_of(body)


@given(st.binary(max_size=200))
def test_any_body_is_a_form_or_refused(body: bytes) -> None:
    with contextlib.suppress(HttpError):
        assert len(form_of(body)) <= 10


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, TEXT, max_size=10))
def test_what_a_browser_sends_is_read_as_it_was_typed(fields: dict[str, str]) -> None:
    assert form_of(urlencode(fields).encode()) == fields
