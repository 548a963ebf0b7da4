"""Every route of the console, asked for by everybody: who is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from nsqadmin import access
from nsqadmin.access import ROUTES, About
from nsqadmin.auth import Role
from nsqadmin.site import Site
from tests.nsqadmin.auth.people import PASSWORD, logged_in, user, with_users
from tests.nsqadmin.scripted import dead_address, scripted
from tests.nsqadmin.serving import Browser, serving

PEOPLE = {
    "stranger": Role.STRANGER,
    "viewer": Role.VIEWER,
    "operator": Role.OPERATOR,
    "admin": Role.ADMIN,
    "header-admin": Role.ADMIN,
    "header-viewer": Role.VIEWER,
}
LIMITED = {"of-orders": True, "of-payments": False}
"""Admins who are limited to topics, and whether the requests are about one of them."""
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/api/topics"): {"topic": "orders"},
    ("DELETE", "/api/nodes/:node"): {"topic": "orders"},
    ("POST", "/api/topics/:topic"): {"action": "pause"},
    ("POST", "/api/topics/:topic/:channel"): {"action": "pause"},
}
VALUES = {":topic": "orders", ":channel": "mail", ":node": "10.0.0.1:4151", ":asset": "mark.svg", ":id": "x"}
USERS = (
    user("viewer"),
    user("operator", Role.OPERATOR),
    user("admin", Role.ADMIN),
    user("of-orders", Role.ADMIN, "ord*"),
    user("of-payments", Role.ADMIN, "payments"),
)


def path_of(path: str) -> str:
    return "/".join(VALUES.get(part, part) for part in path.split("/"))


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    options = {"admin_users": ["header-admin"], "proxy_graphite": True}
    async with (
        scripted() as script,
        serving(nsqds=[dead_address()], graphite_url=f"http://{dead_address()}", **options) as browser,
    ):
        with_users(browser.console, *USERS)
        yield browser
        assert script.calls == []


def headers_of(browser: Browser, who: str) -> dict[str, str]:
    if who == "stranger":
        return {}
    if who.startswith("header-"):
        return {"X-Forwarded-User": who}
    return logged_in(browser.console, who, int(browser.address.rpartition(":")[2]))


async def status_of(browser: Browser, method: str, path: str, who: str) -> int:
    """Of a request. 401 also for one that is sent to the page for logging in."""
    target = path_of(path) + ("?topic=orders" if path == "/series" else "")
    headers = headers_of(browser, who)
    response = await browser.ask(method, target, BODIES.get((method, path)), headers)
    if response.headers.get("location", "").startswith("/login?next=/"):
        return 401
    return response.status_code


def asked(role: Role | None = None) -> list[tuple[str, str]]:
    """All routes but the stream, which does not end by itself, and the form, which is refused for what is in it."""
    return [
        route
        for route, need in ROUTES.items()
        if route not in (("GET", "/live"), ("POST", "/login")) and (role is None or need.role is role)
    ]


async def test_the_table_has_every_route_and_no_other(browser: Browser) -> None:
    routes = Site(browser.console, None)._router.routes()  # type: ignore[arg-type]
    assert {route for route in routes if route[0] != "HEAD"} == ROUTES.keys()


async def test_a_site_with_a_route_that_is_not_in_the_table_is_not_made(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = {route: need for route, need in ROUTES.items() if route[1] != "/nodes"}
    monkeypatch.setattr(access, "ROUTES", fewer)
    with pytest.raises(ValueError, match="GET /nodes is not in the table of what requests need"):
        Site(browser.console, None)  # type: ignore[arg-type]


def test_what_strangers_and_admins_may_do() -> None:
    """Said once more: an entry of the table that is open by mistake would be walked as one that is meant to be."""
    by_role = {role: {path for _, path in asked(role)} for role in Role}
    files = {"/static/:asset", "/fonts/:asset"}
    assert by_role[Role.STRANGER] == {"/ping", "/login", "/logout", *files}
    more = {"/config/:opt", "/audit", "/api/audit"}
    assert all("/messages/" in path or path in more for path in by_role[Role.ADMIN])
    assert not any("/messages/" in path or "config" in path for path in by_role[Role.OPERATOR])
    changing = {need.role for (method, path), need in ROUTES.items() if method not in ("GET", "HEAD")}
    assert changing == {Role.STRANGER, Role.OPERATOR, Role.ADMIN}
    assert not any(need.role is Role.VIEWER for (method, _), need in ROUTES.items() if method != "GET")


def test_a_topic_in_a_path_is_always_looked_at() -> None:
    for (method, path), need in ROUTES.items():
        assert (":topic" in path) == (need.about is About.PATH), (method, path)
        assert need.role is not Role.STRANGER or need.about is About.ANY


@pytest.mark.parametrize("who", PEOPLE)
async def test_a_route_is_for_those_who_have_its_role(browser: Browser, who: str) -> None:
    for method, path in asked():
        status = await status_of(browser, method, path, who)
        if PEOPLE[who] >= ROUTES[method, path].role:
            assert status not in (401, 403), (method, path)
        else:
            assert status == (401 if who == "stranger" else 403), (method, path)


@pytest.mark.parametrize("who", LIMITED)
async def test_a_user_with_topics_has_to_do_with_these_only(browser: Browser, who: str) -> None:
    about_topics = (About.PATH, About.QUERY, About.BODY)
    for method, path in asked():
        about = ROUTES[method, path].about
        status = await status_of(browser, method, path, who)
        refused = about is About.CLUSTER or (about in about_topics and not LIMITED[who])
        assert (status == 403) == refused, (method, path, status)


async def test_what_is_about_all_topics_is_not_for_a_user_with_some(browser: Browser) -> None:
    headers = headers_of(browser, "of-orders")
    assert (await browser.ask("GET", "/series", headers=headers)).status_code == 403
    twice = await browser.ask("GET", "/series?topic=orders&topic=payments", headers=headers)
    assert twice.status_code == 403


@pytest.mark.parametrize(
    "path", ["/topics/%6Frders", "/topics//orders", "/Topics/orders", "/x/../topics/orders/"]
)
async def test_another_spelling_of_a_path_is_no_way_around(browser: Browser, path: str) -> None:
    headers = headers_of(browser, "of-payments")
    response = await browser.ask("GET", path, headers=headers)
    if response.status_code == 301:
        response = await browser.ask("GET", response.headers["location"], headers=headers)
    assert response.status_code == 403


@pytest.mark.parametrize("who", ["stranger", "viewer"])
async def test_the_stream_is_for_those_who_have_logged_in(browser: Browser, who: str) -> None:
    headers = headers_of(browser, who)
    async with browser.client.stream("GET", f"http://{browser.address}/live", headers=headers) as response:
        assert response.status_code == (401 if who == "stranger" else 200)
        head = await browser.ask("HEAD", "/live", headers=headers)
        assert head.status_code == response.status_code


@pytest.mark.parametrize("path", ["/nothing", "/api/nothing", "/topics/a/b/c"])
async def test_a_stranger_is_not_shown_a_page_that_is_none(browser: Browser, path: str) -> None:
    for accept in ("text/html", "*/*"):
        response = await browser.ask("GET", path, headers={"Accept": accept})
        assert response.status_code in (303, 404)
        assert "nsqadmin" not in response.text


async def test_without_users_everybody_may_do_everything() -> None:
    async with serving(nsqds=[dead_address()]) as browser:
        for method, path in asked():
            status = await status_of(browser, method, path, "stranger")
            assert status not in (401, 403), (method, path)


@pytest.mark.parametrize("credentials", [("viewer", PASSWORD), ("admin", PASSWORD)])
async def test_a_password_in_the_request_is_as_good_as_a_session(
    browser: Browser, credentials: tuple[str, str]
) -> None:
    url = f"http://{browser.address}/api/topics/orders"
    response = await browser.client.request("DELETE", url, auth=credentials)
    assert response.status_code == (502 if credentials[0] == "admin" else 403)
