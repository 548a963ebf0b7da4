"""Logging in, roles, and the end of a session, in a real browser."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from nsqadmin.auth import Role
from nsqadmin.auth.throttle import FREE_TRIES
from nsqadmin.auth.users import add, remove
from tests.browser.admin import AdminDaemon
from tests.browser.conftest import OpenPage, StartConsole, live
from tests.browser.looks import check_looks
from tests.browser.scene import Scene
from tests.nsqadmin.auth.people import PASSWORD, user

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]


@pytest.fixture
def users(tmp_path: Path) -> str:
    path = str(tmp_path / "users")
    for each in (
        user("ann", Role.ADMIN),
        user("oscar", Role.OPERATOR, "pay*"),
        user("victor"),
    ):
        add(path, each)
    return path


@pytest.fixture
def console(start_console: StartConsole, users: str) -> AdminDaemon:
    return start_console(f"--users-file={users}")


def log_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.fill("#login-name", name)
    page.fill("#login-password", password)
    page.click("form button")


def test_a_user_logs_in_and_out(open_page: OpenPage, console: AdminDaemon) -> None:
    page = open_page(
        "/topics/payments", home=console.url, watched=False
    )  # refusals are errors for the browser
    expect(page).to_have_title("Log in · nsq-trio")
    log_in(page, "ann", "wrong password")
    expect(page.get_by_role("alert")).to_have_text("Wrong name or password.")
    check_looks(page, "login-failed")
    log_in(page, "ann")
    live(page)
    assert urlsplit(page.url).path == "/topics/payments"
    [session] = [each for each in page.context.cookies() if "session" in each["name"]]
    assert (session["httpOnly"], session["sameSite"], session["path"]) == (True, "Lax", "/")
    assert page.evaluate("document.cookie").count("session") == 0
    check_looks(page, "logged-in")

    beside = open_page("/nodes", home=console.url, beside=page, watched=False)
    live(beside)
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in · nsq-trio")
    # The other window is told by the end of its stream.
    expect(beside).to_have_title("Log in · nsq-trio")
    page.go_back()
    expect(page).to_have_title("Log in · nsq-trio")


def test_a_role_decides_what_is_shown_and_done(
    open_page: OpenPage, console: AdminDaemon, scene: Scene
) -> None:
    page = open_page("/", home=console.url, watched=False)
    log_in(page, "victor")
    live(page)
    expect(page.locator("footer")).to_contain_text("Read-only: you are a viewer")
    page.goto(f"{console.url}/topics/payments")
    expect(page.locator("h1")).to_have_text("payments")
    expect(page.locator("[data-do]")).to_have_count(0)
    status = page.evaluate(
        """async () => (await fetch("/api/topics/payments", {method: "POST", body: '{"action":"pause"}',
            headers: {"X-Console-Token": document.getElementById("content").dataset.token}})).status"""
    )
    assert status == 403
    page.get_by_role("button", name="Log out").click()

    expect(page).to_have_title("Log in · nsq-trio")
    log_in(page, "oscar")
    live(page)
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("footer")).to_contain_text("Your topics: pay*")
    check_looks(page, "limited")
    page.goto(f"{console.url}/topics/payments/fraud-check")
    expect(page.locator("text=Messages of")).to_have_count(0)
    page.click(".actions >> text=Pause")
    page.click("#ask [data-part=ok]")
    expect(page.locator("#toasts .notice.good")).to_contain_text("paused")
    page.click(".actions >> text=Unpause")
    page.click("#ask [data-part=ok]")
    expect(page.locator("#toasts .notice.good").last).to_contain_text("unpaused")
    page.goto(f"{console.url}/messages/payments/fraud-check")
    expect(live(page).locator("h1")).to_have_text("Not allowed")
    check_looks(page, "not-allowed")


def test_a_user_who_is_removed_is_logged_out_at_once(
    open_page: OpenPage, console: AdminDaemon, users: str
) -> None:
    page = open_page("/", home=console.url, watched=False)
    log_in(page, "ann")
    live(page)
    remove(users, "ann")
    expect(page).to_have_title("Log in · nsq-trio")
    log_in(page, "ann")
    expect(page.get_by_role("alert")).to_have_text("Wrong name or password.")


def test_another_site_cannot_act_with_a_session(
    open_page: OpenPage, console: AdminDaemon, scene: Scene
) -> None:
    page = open_page("/", home=console.url, watched=False)
    log_in(page, "ann")
    live(page)
    form = f"""<form method="post" enctype="text/plain" action="{console.url}/api/topics">
        <input name='{{"topic":"forged.topic","x":"' value='"}}'></form><script>document.forms[0].submit()</script>"""
    page.context.route(
        "http://evil.example/", lambda route: route.fulfill(content_type="text/html", body=form)
    )
    with page.expect_response(f"{console.url}/api/topics") as answered:
        page.goto("http://evil.example/", wait_until="commit")
    assert answered.value.status in (401, 403)
    page.wait_for_url(f"{console.url}/api/topics")
    assert all("forged.topic" not in registry.topics() for registry in scene.cluster.registries)
    page.goto(console.url)
    live(page)


def test_guessing_is_slowed_down(open_page: OpenPage, console: AdminDaemon) -> None:
    page = open_page("/login", home=console.url, watched=False)
    said = ""
    for number in range(FREE_TRIES + 8):  # each wait is twice as long: at last it is longer than a try takes
        log_in(page, "ann", f"guess {number}")
        page.wait_for_url("**/login")
        said = page.get_by_role("alert").inner_text()
        if number < FREE_TRIES:
            assert said == "Wrong name or password."
        elif said != "Wrong name or password.":
            break
        page.goto(f"{console.url}/login?next=/{number}")
    assert said.startswith("Too many tries. The next one can be made in")
    assert any("LOGIN: failed: ann from 127.0.0.1" in line for line in console.lines)
