"""How requests are refused: as pages, as JSON, and which refusals browsers and scripts are told."""

from __future__ import annotations

import base64

import pytest

from nsqadmin.auth import Role
from nsqadmin.auth.throttle import FREE_TRIES
from nsqadmin.console import Console
from tests.nsqadmin.auth.people import PASSWORD, logged_in, user, with_users
from tests.nsqadmin.pages.cluster import channel, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import fetch, respond

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept": "text/html"}
BASIC = "Basic YW5uOndyb25n"


@pytest.fixture
def console() -> Console:
    shown = snapshot(topic("orders", channels=[channel("orders", "mail")]))
    users = (user("ann", Role.ADMIN), user("eve"), user("of", Role.ADMIN, "payments"))
    return with_users(fake_console(shown, base_path="/adm"), *users)


@pytest.mark.parametrize("target", ["/", "/topics/orders?q=a%20b&page=2", "/nothing"])
async def test_a_stranger_who_opens_a_page_is_sent_to_the_login_and_back(
    console: Console, target: str
) -> None:
    response = await respond(console, target, headers=BROWSER)
    assert response.status_code == 303
    sent_to = response.headers["location"]
    assert sent_to.startswith("/adm/login?next=/adm")
    login = await fetch(console, sent_to.removeprefix("/adm"), headers=BROWSER)
    path = "/adm" if target == "/" else f"/adm{target}"
    assert login.one("input", name="next")["value"] == path
    assert login.response.text.count("orders") == path.count("orders")


@pytest.mark.parametrize("target", ["/api/topics", "/series?topic=orders", "/api/topics/orders"])
async def test_a_stranger_of_the_api_is_told_to_log_in(console: Console, target: str) -> None:
    script = await respond(console, target)
    assert (script.status_code, script.json()) == (401, {"message": "LOGIN_REQUIRED"})
    assert script.headers["www-authenticate"] == 'Basic realm="nsqadmin", charset="UTF-8"'
    page = await respond(console, target, headers=BROWSER)
    assert page.status_code == 401
    assert "www-authenticate" not in page.headers, "a browser would ask in a window of its own"


async def test_a_wrong_password_is_told_and_then_too_many(console: Console) -> None:
    for _ in range(FREE_TRIES):
        response = await respond(console, "/api/topics", headers={"Authorization": BASIC})
        assert (response.status_code, response.json()) == (401, {"message": "LOGIN_FAILED"})
    response = await respond(console, "/api/topics", headers={"Authorization": BASIC})
    assert (response.status_code, response.json()) == (429, {"message": "TOO_MANY_TRIES"})
    assert response.headers["retry-after"] == "1"


async def test_who_may_not_see_a_page_is_shown_another_one(console: Console) -> None:
    page = await fetch(console, "/messages/orders/mail", status=403, headers=logged_in(console, "eve"))
    assert page.one("h1").text == "Not allowed"
    assert "only administrators can read them" in page.text
    limited = await fetch(console, "/topics/orders", status=403, headers=logged_in(console, "of"))
    assert "what belongs to your topics: payments" in limited.text
    same = await fetch(console, "/topics/nothing", status=403, headers=logged_in(console, "of"))
    assert limited.one("main").text == same.one("main").text, (
        "nobody finds out by this which topics there are"
    )


async def test_a_role_is_also_that_of_the_api(console: Console) -> None:
    headers = logged_in(console, "eve")
    for method, target in (
        ("POST", "/api/topics"),
        ("DELETE", "/api/topics/orders"),
        ("PUT", "/config/log_level"),
    ):
        response = await respond(console, target, method=method, headers=headers)
        assert (response.status_code, response.json()) == (403, {"message": "FORBIDDEN"})


@pytest.mark.parametrize(
    "forged",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://evil.example", "X-Console-Token": "guess"},
    ],
)
async def test_a_page_of_another_site_cannot_use_a_session(console: Console, forged: dict[str, str]) -> None:
    headers = {**logged_in(console, "ann"), **forged}
    response = await respond(console, "/api/topics/orders", method="DELETE", headers=headers)
    assert (response.status_code, response.json()) == (403, {"message": "FORBIDDEN"})


async def test_the_token_of_another_session_is_none(console: Console) -> None:
    """A user may read the token in his own pages, and make another one's browser send it."""
    own = (await fetch(console, "/", headers=logged_in(console, "eve"))).one("main")["data-token"]
    headers = {**logged_in(console, "ann"), "Origin": "https://evil.example"}
    for token in (own, console.origins.token):
        sent = {**headers, "X-Console-Token": token}
        assert (
            await respond(console, "/api/topics/orders", method="DELETE", headers=sent)
        ).status_code == 403
    token = (await fetch(console, "/", headers=headers)).one("main")["data-token"]
    sent = {**headers, "X-Console-Token": token}
    with pytest.raises(AttributeError):  # it comes to the action, which this console does not have
        await respond(console, "/api/topics/orders", method="DELETE", headers=sent)


async def test_a_request_without_any_sign_of_a_browser_needs_no_token(console: Console) -> None:
    basic = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    with pytest.raises(AttributeError):
        await respond(
            console, "/api/topics/orders", method="DELETE", headers={"Authorization": f"Basic {basic}"}
        )
