"""Graphite behind the console: rates for the pages, and /render handed on."""

from __future__ import annotations

from typing import Any

import pytest

from nsqkit.http import Request, Response, error, json_body
from tests.nsqadmin.scripted import dead_address, scripted
from tests.nsqadmin.serving import serving

RATE = "/api/graphite?metric=rate&target=sumSeries(x)"


async def rate_of(answer: Any) -> tuple[int, Any]:
    async with scripted() as script:
        graphite = await script.daemon()
        graphite.on("/render", answer)
        async with serving(nsqds=[dead_address()], graphite_url=f"http://{graphite.address}") as browser:
            response = await browser.get(RATE)
    return response.status_code, response.json()


def points(*values: float | None) -> Response:
    return json_body([{"target": "x", "datapoints": [[value, 1] for value in values]}])


class TestRate:
    @pytest.mark.parametrize(
        ("value", "rate"), [(120, "2.00"), (0, "0.00"), (100.0, "1.67"), (-1, "N/A"), (1e9, "16666666.67")]
    )
    async def test_it_is_a_second_s_part_of_the_last_interval(self, value: float, rate: str) -> None:
        assert await rate_of(points(value, 7)) == (200, {"rate": rate})

    async def test_the_interval_before_the_last_one_is_asked_for(self) -> None:
        async with scripted() as script:
            graphite = await script.daemon()
            graphite.on("/render", points(30))
            async with serving(
                nsqds=[dead_address()],
                graphite_url=f"http://{graphite.address}",
                statsd_interval=30_000_000_000,
            ) as browser:
                assert (await browser.json(RATE)) == {"rate": "1.00"}
        assert script.calls == [
            f"GET {graphite.address}/render?format=json&from=-60sec&target=sumSeries%28x%29&until=-30sec"
        ]

    @pytest.mark.parametrize(
        "answer",
        [json_body([]), points(), points(None), json_body("x"), error(500, "X"), Response(200, b"<html>")],
    )
    async def test_whatever_fails_is_500(self, answer: Response) -> None:
        assert await rate_of(answer) == (500, {"message": "INTERNAL_ERROR"})

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("", "INVALID_ARG_METRIC"),
            ("?metric=depth&target=x", "INVALID_ARG_METRIC"),
            ("?metric=rate", "INVALID_ARG_TARGET"),
        ],
    )
    async def test_what_is_not_asked_rightly_is_told(self, query: str, code: str) -> None:
        async with serving(nsqds=[dead_address()]) as browser:
            response = await browser.get(f"/api/graphite{query}")
        assert (response.status_code, response.json()) == (400, {"message": code})


class TestRender:
    async def test_it_is_handed_on_as_it_came(self) -> None:
        heard: list[Request] = []

        def answer(request: Request) -> Response:
            heard.append(request)
            return Response(200, b"PNG", b"image/png", nsq=False)

        async with scripted() as script:
            graphite = await script.daemon()
            graphite.on("/render", answer)
            url = f"http://ann:se%40cret@{graphite.address}/ignored"
            async with serving(
                nsqds=[dead_address()], graphite_url=url, proxy_graphite=True, base_path="/adm"
            ) as browser:
                response = await browser.get("/adm/render?target=a%20b&x=1", **{"X-Forwarded-For": "1.1.1.1"})
        assert (response.status_code, response.content) == (200, b"PNG")
        assert response.headers["content-type"] == "image/png"
        [request] = heard
        assert request.target == b"/render?target=a%20b&x=1"
        assert request.header(b"host") == browser.address.encode()
        assert request.header(b"x-forwarded-for") == b"1.1.1.1, 127.0.0.1"
        assert request.header(b"authorization") == b"Basic YW5uOnNlQGNyZXQ="

    async def test_its_errors_are_handed_on_and_without_it_there_is_502(self) -> None:
        async with scripted() as script:
            graphite = await script.daemon()
            async with serving(
                nsqds=[dead_address()], graphite_url=f"http://{graphite.address}", proxy_graphite=True
            ) as browser:
                assert (await browser.get("/render")).status_code == 404
        async with serving(
            nsqds=[dead_address()], graphite_url=f"http://{dead_address()}", proxy_graphite=True
        ) as browser:
            assert (await browser.get("/render")).status_code == 502

    async def test_unless_wished_for_it_is_not_there(self) -> None:
        async with serving(nsqds=[dead_address()], graphite_url="http://127.0.0.1:1") as browser:
            assert (await browser.get("/render")).status_code == 404
