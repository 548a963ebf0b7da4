"""The page of alarms, the worst of them on the front page, and their number in the navigation."""

from __future__ import annotations

import time

import pytest

from nsqadmin.alarms.alarm import Alarm, Kind, Subject
from tests.nsqadmin.pages.cluster import NODE, NOW, channel, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import HtmlPage, fetch


def alarm(kind: Kind, **subject: str) -> Alarm:
    return Alarm(
        kind=kind, subject=Subject(**subject), since=NOW - 90, text="something is wrong", advice="Mend it."
    )


ALARMS = (
    alarm(Kind.SILENT, node=NODE),
    alarm(Kind.SILENT, registry="10.9.0.1:4161"),
    alarm(Kind.BEHIND, topic="orders", channel="mail#ephemeral"),
    *(alarm(Kind.PAUSED, topic=f"t{number:02}") for number in range(60)),
)
SHOWN = snapshot(topic("orders", [channel("orders", "mail#ephemeral", client_count=1)]))


def rows(page: HtmlPage) -> list[str]:
    return [each.text for each in page.one("ul", class_="alarms").all("li")]


async def test_every_alarm_says_what_is_wrong_since_when_and_what_to_do() -> None:
    page = await fetch(fake_console(SHOWN, alarms=ALARMS), "/alarms")
    assert rows(page)[:3] == [
        f"no answer {NODE} something is wrong for 1 min 30 s Mend it.",
        "no answer nsqlookupd 10.9.0.1:4161 something is wrong for 1 min 30 s Mend it.",
        "falling behind orders / mail#ephemeral something is wrong for 1 min 30 s Mend it.",
    ]
    since = time.strftime("since %Y-%m-%d %H:%M:%S", time.localtime(NOW - 90))
    assert {each["title"] for each in page.all("span", class_="quiet")} == {since}
    badges = {each.text: each["class"].strip() for each in page.one("main").all("span", class_="badge")}
    assert badges == {"no answer": "badge bad", "falling behind": "badge warn", "paused": "badge"}


async def test_each_leads_to_its_subject() -> None:
    page = await fetch(fake_console(SHOWN, alarms=ALARMS, base_path="/adm"), "/alarms")
    links = [each["href"] for each in page.one("ul", class_="alarms").all("a")]
    assert links[:4] == [
        "/adm/nodes/10.0.0.1%3A4151",
        "/adm/lookup",
        "/adm/topics/orders/mail%23ephemeral",
        "/adm/topics/t00",
    ]


async def test_all_can_be_reached_page_by_page() -> None:
    console = fake_console(SHOWN, alarms=ALARMS)
    found = rows(await fetch(console, "/alarms")) + rows(await fetch(console, "/alarms?page=2"))
    assert len(found) == len(set(found)) == len(ALARMS)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?show=silent", 2),
        ("?show=critical", 2),
        ("?show=warning", 1),
        ("?q=MAIL", 1),
        ("?q=t0&show=paused", 10),
    ],
)
async def test_they_can_be_searched_and_filtered(query: str, count: int) -> None:
    assert len(rows(await fetch(fake_console(SHOWN, alarms=ALARMS), f"/alarms{query}"))) == count


async def test_the_page_says_when_there_is_none() -> None:
    assert "No alarms" in (await fetch(fake_console(SHOWN), "/alarms")).text
    assert "Loading" in (await fetch(fake_console(snapshot(at=0.0)), "/alarms")).text
    assert "No matches" in (await fetch(fake_console(SHOWN, alarms=ALARMS), "/alarms?q=nothing")).text


async def test_the_front_page_shows_the_worst_and_leads_to_all() -> None:
    page = await fetch(fake_console(SHOWN, alarms=ALARMS), "/")
    assert len(rows(page)) == 5
    assert rows(page)[0].startswith(f"no answer {NODE}")
    more = page.one("p", class_="alarms-more").one("a")
    assert (more.text, more["href"]) == ("All 63 alarms", "/alarms")


async def test_a_healthy_cluster_has_no_list_on_the_front_page() -> None:
    page = await fetch(fake_console(SHOWN), "/")
    assert not page.all("ul", class_="alarms")


async def test_the_navigation_of_every_page_has_their_number() -> None:
    for path in ("/", "/nodes", "/alarms"):
        page = await fetch(fake_console(SHOWN, alarms=ALARMS), path)
        assert page.one("span", id="alarm-count").text == "63"
        assert (await fetch(fake_console(SHOWN), path)).one("span", id="alarm-count").text == ""


async def test_an_idle_channel_without_messages_is_not_marked_as_trouble() -> None:
    for depth, expected in ((0, "badge"), (1, "badge bad")):
        shown = snapshot(topic("a", [channel("a", "b", depth=depth, no_consumer_since=NOW - 9)]))
        for path in ("/", "/topics/a", "/topics/a/b"):
            page = await fetch(fake_console(shown), path)
            badges = [each for each in page.all("span", class_="badge") if each.text == "no consumer"]
            assert {badge["class"].strip() for badge in badges} == {expected}
