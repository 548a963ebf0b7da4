"""Pages update themselves, search and sort while the user types, and keep the user's input."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenPage, StartConsole, live, renewed
from tests.browser.scene import Scene
from tests.timing import patience

pytestmark = [pytest.mark.browser, pytest.mark.process, pytest.mark.xdist_group("browser")]


def test_figures_change_without_a_reload(open_page: OpenPage) -> None:
    page = live(open_page("/topics/clickstream"))
    page.evaluate("window.same = true")
    place = page.locator(".tiles .note").first
    before = place.inner_text()
    expect(place).not_to_have_text(before)
    assert page.evaluate("window.same")


def test_an_alarm_comes_and_goes_without_a_reload(open_page: OpenPage, scene: Scene) -> None:
    page = live(open_page("/alarms?q=mislaid"))
    expect(page.locator("#content")).to_contain_text("No matches")
    number = page.locator("#alarm-count .badge")
    before = int(number.inner_text())
    nsqd = scene.cluster.nsqds[0]
    nsqd.request("POST", "/pub?topic=mislaid", b"x")
    expect(page.locator(".alarms li")).to_contain_text("no channel mislaid 1 message waiting, no channel")
    expect(number).to_have_text(str(before + 1))
    page.click(".alarms li a")
    page.wait_for_url("**/topics/mislaid")
    for daemon in (nsqd, *scene.cluster.registries):
        daemon.request("POST", "/topic/delete?topic=mislaid", b"")
    page.go_back()
    expect(page.locator("#content")).to_contain_text("No matches")


def test_charts_are_drawn_and_describe_their_values(open_page: OpenPage) -> None:
    page = live(open_page("/"))
    expect(page.locator("#plot-rates canvas")).to_be_visible()
    expect(page.locator("#legend-rates")).to_contain_text("in")
    label = page.get_attribute("#plot-rates", "aria-label") or ""
    assert label.startswith("Messages per second: in ")
    page.hover("#plot-rates .u-over")
    expect(page.locator("#chart-rates .chart-tip")).to_contain_text("out")
    page.click(".segments >> text=1 h")
    page.wait_for_url("**span=1h**")
    expect(page.locator("#chart-rates")).to_have_attribute("data-chart", "/series?span=1h")


def test_ticks_of_counts_are_whole_numbers(open_page: OpenPage) -> None:
    page = open_page("/")
    page.add_init_script(
        """const fill = CanvasRenderingContext2D.prototype.fillText;
        window.drawn = {};
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            (window.drawn[this.canvas.closest("figure").id] ||= []).push(text);
            return fill.call(this, text, ...place);
        };"""
    )
    page.goto(page.url + "topics/orders")
    page.wait_for_function("Object.keys(window.drawn || {}).length === 3")
    drawn: dict[str, list[str]] = page.evaluate("window.drawn")
    for chart in ("chart-depth", "chart-trouble"):
        ticks = [text for text in drawn[chart] if ":" not in text]
        assert len(set(ticks)) >= 2
        assert [text for text in ticks if not re.fullmatch(r"[\d,]+", text)] == []


def test_typing_finds_topics_and_keeps_the_cursor(open_page: OpenPage) -> None:
    page = live(open_page("/"))
    names = page.locator("tbody th a")
    page.locator("input[type=search]").press_sequentially("re", delay=30)
    expect(names).to_have_text(["clickstream", "image.resize"])
    page.locator("input[type=search]").press_sequentially("s", delay=30)
    expect(names).to_have_text(["image.resize"])
    renewed(page)
    assert page.input_value("input[type=search]") == "res"
    assert page.evaluate("document.activeElement.type") == "search"
    assert "q=res" in page.url


def test_a_filter_and_an_order_stay_over_polls_and_in_the_history(open_page: OpenPage) -> None:
    page = live(open_page("/"))
    page.select_option("select[name=show]", "idle")
    expect(page.locator("tbody th a", has_text="orders")).to_have_count(0)
    expect(page.locator("tbody th a", has_text="invoices")).to_have_count(1)
    page.select_option("select[name=show]", "")
    expect(page.locator("tbody th a", has_text="orders")).to_have_count(1)
    page.click("thead >> text=Messages")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Messages")
    page.click("thead >> text=Messages")
    expect(page.locator("th[aria-sort=ascending]")).to_have_text("Messages")
    page.go_back()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Messages")


def test_details_stay_open(open_page: OpenPage, scene: Scene) -> None:
    page = live(open_page(f"/nodes/127.0.0.1:{scene.cluster.nsqds[0].http_port}"))
    details = page.locator("details").first
    details.locator("summary").click()
    renewed(page)
    assert details.get_attribute("open") is not None
    expect(details.locator("li").first).to_be_visible()


def test_the_theme_is_switched_and_remembered(open_page: OpenPage) -> None:
    page = live(open_page("/", scheme="light"))
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("[data-theme-switch]")
    dark = page.evaluate(background)
    assert dark != light
    page.goto(page.url.replace("/?", "/nodes?") if "?" in page.url else page.url + "nodes")
    assert page.evaluate(background) == dark
    page.click("[data-theme-switch]")
    assert page.evaluate(background) == light


def test_the_counter_grows(open_page: OpenPage) -> None:
    page = live(open_page("/counter", reduced_motion="no-preference"))
    output = page.locator("#counter-value")
    first = output.inner_text()
    expect(output).not_to_have_text(first)
    renewed(page)
    assert int(output.inner_text().replace(",", "")) > int(first.replace(",", "")) + 20


def test_a_page_notices_when_the_console_restarts(open_page: OpenPage, start_console: StartConsole) -> None:
    console = start_console()
    page = live(open_page("/", home=console.url, watched=False))
    assert console.terminate(within_s=3.0) == 0
    expect(page.locator("#pulse")).to_have_attribute("data-state", "lost")
    expect(page.locator("#pulse")).to_contain_text("No connection")
    console.start()
    expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
    expect(page.locator("tbody th a").first).to_be_visible()


WINDOWS = 8
"""More than the connections that a browser opens to one host."""


def test_any_number_of_windows_of_one_browser_share_a_stream(
    open_page: OpenPage, start_console: StartConsole
) -> None:
    console = start_console("--poll-interval=1h")  # nothing but the event after an action renews a page
    first = live(open_page("/topics/image.resize", home=console.url))
    windows = [open_page("/topics/image.resize", home=console.url, beside=first) for _ in range(WINDOWS - 1)]
    for verb, badges in (("Pause", 1), ("Unpause", 0)):
        live(windows[-1]).get_by_role("button", name=verb, exact=True).click()
        windows[-1].click("#ask [data-part=ok]")
        for window in (first, *windows):
            expect(live(window).locator("h1 .badge")).to_have_count(badges)


def test_a_browser_without_shared_workers_fetches_the_page_once_an_interval(open_page: OpenPage) -> None:
    page = open_page("/topics/clickstream")
    page.add_init_script("delete window.SharedWorker")
    page.reload()
    assert page.evaluate("window.SharedWorker === undefined")
    note = page.locator(".tiles .note").first
    before = note.inner_text()
    renewed(live(page))
    expect(note).not_to_have_text(before)


def test_a_node_that_does_not_answer_is_named(
    open_page: OpenPage, scene: Scene, start_console: StartConsole
) -> None:
    console = start_console(f"--http-client-request-timeout={patience(0.5):g}s")
    page = live(open_page("/nodes", home=console.url))
    expect(page.locator("tbody tr")).to_have_count(3)
    silent = scene.cluster.nsqds[2]
    with silent.stop_cont():
        notice = page.locator("section[aria-labelledby=problems-title]")
        expect(notice).to_contain_text(f"127.0.0.1:{silent.http_port}")
        expect(notice).to_contain_text("One daemon does not answer.")
        expect(page.locator("tr.trouble")).to_contain_text("no answer")
    expect(notice).to_have_count(0)
