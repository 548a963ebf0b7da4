"""Properties of every page: names are text, links are below the base path, only administrators have actions."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from nsqadmin.console import Console
from nsqadmin.model import Copies, Draining, Follower, StuckPlace
from nsqadmin.text import UNKNOWN
from tests.nsqadmin.pages.cluster import (
    NODE,
    NOW,
    FakeHistory,
    FakeQueries,
    channel,
    client,
    fake_console,
    held_copy,
    node,
    problem,
    snapshot,
    topic,
)
from tests.nsqadmin.pages.messages import FakeUpstream, message, response
from tests.nsqadmin.pages.reading import HtmlPage, fetch, respond

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}</script><!--"


def console_with(name: str, **options: Any) -> Console:
    """A console where everything that a stranger can choose is this."""
    held = topic(
        name,
        [
            channel(name, name, client_count=1, depth=3, timeouts_per_minute=2),
            channel(name, "~idle", depth=1, no_consumer_since=NOW - 5),
        ],
        in_rate=1.0,
    )
    nodes = [
        node(
            NODE,
            [held],
            hostname=name,
            version=name,
            topology_region=name,
            topology_zone=name,
            remote_addresses=[name, name],
            tombstoned=[name],
            health=name,
            draining=Draining(
                int(NOW) - 60, 5, (StuckPlace(name, name, 4, name), StuckPlace(name, "", 1, name))
            ),
            copies=Copies(
                2,
                1,
                followers=(Follower(name, False, name, 7, 4096, ((name, name),), 1),),
                held=(held_copy(name), held_copy(name, adopted=True, stand_in_port=4170)),
            ),
        )
    ]
    clients = [
        client(
            name,
            client_id=f"id {name}",
            user_agent=name,
            remote_address=name,
            authed=True,
            auth_identity=name,
            auth_identity_url=f"https://example.org/{name}",
            tls=True,
            tls_version=name,
            topology_region=name,
            topology_zone=name,
        )
    ]
    return fake_console(
        snapshot(held, nodes=nodes, problems=[problem(name, error=name)]),
        clients=clients,
        history=FakeHistory([1.0, 2.0, 3.0]),
        queries=FakeQueries({name: [name]}, upstream=FakeUpstream({NODE: hostile_messages(name)})),
        graphite_url="http://graphite.example:8080",
        alarms=[
            Alarm(kind=kind, subject=Subject(topic=name, channel=name), since=NOW, text=name, advice=name)
            for kind in Kind
        ],
        **options,
    )


def hostile_messages(name: str) -> dict[str, Any]:
    """A page of messages in which everything is this."""
    consumer = {"client_id": name, "hostname": name, "remote_address": name}
    return response(
        message(1, name, consumer=consumer),
        message(2, json.dumps({name: name}), id=name[:16].ljust(16, "!")),
        following=3,
    )


def paths(name: str) -> list[str]:
    return [
        "/",
        f"/?q={percent(name)}",
        "/nodes",
        f"/nodes/{NODE}",
        f"/topics/{percent(name)}",
        f"/topics/{percent(name)}/{percent(name)}",
        f"/messages/{percent(name)}/{percent(name)}?state=in_flight",
        "/topics/none",
        "/messages/none/none",
        "/topics/none/none",
        "/nodes/none",
        "/lookup",
        "/alarms",
        "/counter",
    ]


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


PLAIN = paths("plain")


def status_of(path: str) -> int:
    """The status that the page has."""
    return 404 if "/none" in path else 200


@pytest.mark.parametrize("index", range(len(PLAIN)), ids=lambda index: PLAIN[index])
async def test_a_hostile_name_does_not_change_the_markup(index: int) -> None:
    name = HOSTILE.replace("/", "")
    status = status_of(paths("plain")[index])
    plain = await fetch(console_with("plain"), paths("plain")[index], status=status)
    hostile = await fetch(console_with(name), paths(name)[index], status=status)
    assert hostile.shape() == plain.shape()
    assert "49" not in hostile.one("main").text


async def test_a_hostile_name_is_shown_as_it_is() -> None:
    name = HOSTILE.replace("/", "")
    page = await fetch(console_with(name), f"/topics/{percent(name)}")
    assert page.one("h1").text.startswith(name)
    delete = page.one("button", data_do="DELETE", data_then="/")
    assert delete["data-type"] == name
    assert httpx.URL(delete["data-url"]).path == f"/api/topics/{name}"


@pytest.mark.parametrize("path", PLAIN)
async def test_every_link_is_below_the_base_path(path: str) -> None:
    page = await fetch(console_with("plain", base_path="/adm"), path, status=status_of(path))
    links = [
        each.attributes[name]
        for each in page.walk()
        for name in (
            "href",
            "src",
            "action",
            "data-url",
            "data-then",
            "data-chart",
            "data-stream",
            "data-create",
        )
        if name in each.attributes
    ]
    own = [
        link
        for link in links
        if not link.startswith(("http://graphite.example:8080/", "https://example.org/"))
    ]
    assert len(own) > 8
    assert [link for link in own if not re.match(r"/adm(/|\?|$)|#content$", link)] == []


@pytest.mark.parametrize("path", PLAIN)
async def test_users_who_are_no_administrators_see_no_buttons(path: str) -> None:
    console = console_with("plain", admin_users=["ann"])
    status = 403 if path.startswith("/messages") else status_of(path)
    page = await fetch(console, path, status=status, headers={"X-Forwarded-User": "bob"})
    assert not [each for each in page.all("button") if "data-do" in each.attributes]
    assert not page.all("form", class_="create")
    assert "Read-only" in page.one("footer").text
    assert "var IS_ADMIN = false;" in page.response.text
    page = await fetch(console, path, status=status_of(path), headers={"X-Forwarded-User": "ann"})
    assert "var IS_ADMIN = true;" in page.response.text


@pytest.mark.parametrize("path", PLAIN)
async def test_the_policy_allows_scripts_and_styles_of_the_console_only(path: str) -> None:
    page = await fetch(console_with("plain"), path, status=status_of(path))
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    nonce = page.one("script", nonce=policy["script-src"].partition("'nonce-")[2].rstrip("'"))
    assert "var VERSION" in nonce.text
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "'self' http://graphite.example:8080"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in page.headers["content-security-policy"]
    for each in page.walk():
        assert not [name for name in each.attributes if name.startswith("on") or name == "style"], each.tag
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


async def test_each_nonce_is_used_once() -> None:
    console = console_with("plain")
    policies = {(await fetch(console, "/")).headers["content-security-policy"] for _ in range(5)}
    assert len(policies) == 5


def script_values(page: HtmlPage) -> dict[str, Any]:
    script = next(each for each in page.all("script") if "nonce" in each.attributes)
    [text] = script.children
    assert isinstance(text, str)
    lines = re.findall(r"^var (\w+) = (.*);$", text, re.MULTILINE)
    return {name: json.loads(value) for name, value in lines}


async def test_the_globals_that_scripts_of_others_read() -> None:
    page = await fetch(fake_console(snapshot(), base_path="/adm", statsd_prefix="nsq.<%s>"), "/")
    assert script_values(page) == {
        "USER_AGENT": "nsqadmin/v1.4.0",
        "VERSION": "1.4.0",
        "GRAPHITE_URL": "",
        "GRAPH_ENABLED": False,
        "STATSD_COUNTER_FORMAT": "stats.counters.%s.count",
        "STATSD_GAUGE_FORMAT": "stats.gauges.%s",
        "STATSD_INTERVAL": 60,
        "STATSD_PREFIX": "nsq.<%s>",
        "NSQLOOKUPD": ["10.9.0.1:4161", "10.9.0.2:4161"],
        "IS_ADMIN": True,
        "BASE_PATH": "/adm",
    }


async def test_an_option_cannot_end_the_script() -> None:
    page = await fetch(fake_console(snapshot(), statsd_prefix="</script><img src=x>&\u2028"), "/")
    assert script_values(page)["STATSD_PREFIX"] == "</script><img src=x>&\u2028"
    assert "</script><img" not in page.response.text


@pytest.mark.parametrize("path", PLAIN)
async def test_pages_are_accessible(path: str) -> None:
    page = await fetch(console_with("plain"), path, status=status_of(path))
    assert page.one("page", "main")["id"] == "content"
    assert len(page.all("h1")) == 1
    ids = [each.attributes["id"] for each in page.walk() if "id" in each.attributes]
    assert len(ids) == len(set(ids)), [each for each in ids if ids.count(each) > 1]
    for each in page.walk():
        for name in ("aria-labelledby", "for"):
            assert each.attributes.get(name, ids[0]) in ids, (each.tag, each.attributes)
        if each.tag in ("button", "a"):
            assert each.text or each.attributes.get("aria-label") or each.all("img"), each.attributes
    for table in page.all("table"):
        assert table.one("caption").text
        assert all(each.attributes.get("scope") for each in table.all("th"))


@pytest.mark.parametrize("path", ["/", "/nodes", f"/nodes/{NODE}", "/topics/a", "/topics/a/b"])
async def test_an_empty_cell_says_why(path: str) -> None:
    held = topic(
        "a",
        [channel("a", "b", client_count=1, in_rate=None, out_rate=None)],
        in_rate=None,
        out_rate=None,
    )
    unknown = client("", client_id="", user_agent="", connect_ts=0)
    shown = snapshot(held, nodes=[node(NODE, [held], version="")])
    console = fake_console(shown, clients=[unknown], admin_users=["ann"])  # no columns of buttons
    page = await fetch(console, path)
    cells = [*page.all("tbody", "td"), *page.all("tbody", "th"), *page.all("dl", "dd")]
    dashes = [each for each in cells if each.text == UNKNOWN]
    assert dashes
    assert [each for each in dashes if not each.one("span", class_="zero")["title"]] == []
    empty = [each for each in cells if not each.text]
    assert [each for each in empty if not each.all("svg")] == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_pages_refuse_other_methods(method: str) -> None:
    answer = await respond(console_with("plain"), "/topics/plain", method=method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert answer.json() == {"message": "METHOD_NOT_ALLOWED"}


async def test_pages_answer_options() -> None:
    answer = await respond(console_with("plain"), "/nodes", method="OPTIONS")
    assert (answer.status_code, answer.headers["allow"]) == (200, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_unknown_paths_are_not_found(method: str) -> None:
    answer = await respond(console_with("plain"), "/nothing/here/at/all", method=method)
    assert (answer.status_code, answer.json()) == (404, {"message": "NOT_FOUND"})
    assert answer.headers["x-nsq-content-type"] == "nsq; version=1.0"


@pytest.mark.parametrize("path", ["/topics/none", "/topics/plain/none", "/topics/none/none", "/nodes/none"])
async def test_nothing_can_be_done_to_what_does_not_exist(path: str) -> None:
    page = await fetch(console_with("plain"), path, status=404)
    assert page.all("button", data_do="POST") == page.all("button", data_do="DELETE") == []


@pytest.mark.parametrize("path", ["/topics/a", "/topics/a/b", "/nodes/a:1"])
async def test_before_the_first_poll_nothing_is_missing(path: str) -> None:
    page = await fetch(fake_console(snapshot(at=0.0)), path)
    assert "Loading" in page.text
    assert page.all("button", data_do="POST") == page.all("button", data_do="DELETE") == []


@pytest.mark.parametrize("path", ["/nothing", "/topics/a/b/c", "/nothing/here/at/all"])
async def test_a_path_that_leads_nowhere_is_a_page_for_browsers(path: str) -> None:
    console = console_with("plain", base_path="/adm")
    page = await fetch(console, path, status=404, headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.one("h1").text == "Not found"
    assert page.all("button", data_do="POST") == page.all("button", data_do="DELETE") == []
    for accept, target in (("*/*", path), ("text/html", f"/api{path}/x/y")):
        response = await respond(console, target, headers={"Accept": accept})
        assert (response.status_code, response.json()) == (404, {"message": "NOT_FOUND"})
