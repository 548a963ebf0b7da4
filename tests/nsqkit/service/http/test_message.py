from __future__ import annotations

import email.utils
import time

import pytest

from nsqkit.service.http import BadQuery, Request, Response, error, json_body, query, text
from nsqkit.service.http.message import date_line, render
from tests.nsqkit.service.http.http_peer import small_api


def request(query_string: bytes) -> Request:
    route, params = small_api().route("GET", b"/ping", "/ping", query_string)
    return Request("GET", b"/ping", "/ping", query_string, [], "1.1", "@", False, True, params, route)


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (b"", {}),
        (b"&&", {}),
        (b"topic=a", {"topic": "a"}),
        (b"topic=a&topic=b", {"topic": "a"}),
        (b"topic=", {"topic": ""}),
        (b"topic", {"topic": ""}),
        (b"=a", {"": "a"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"to+pic=a+b%2Bc", {"to pic": "a b+c"}),
        (b"%74opic=t%23ephemeral", {"topic": "t#ephemeral"}),
        (b"topic=t#ephemeral", {"topic": "t#ephemeral"}),
        (b"a=%3B%26%3D%25", {"a": ";&=%"}),
        (b"a=%C3%A9&b=%ff", {"a": "é", "b": "\ufffd"}),
        (b"a=" + b"x" * 300, {"a": "x" * 300}),
    ],
)
def test_query(raw: bytes, values: dict[str, str]) -> None:
    assert query(request(raw)) == values
    assert query(request(raw)) == values


@pytest.mark.parametrize("raw", [b"a=%zz", b"a=%", b"a=%4", b"%g0=a", b"topic=a;b=c", b";", b"a=b&c=;"])
def test_bad_query(raw: bytes) -> None:
    with pytest.raises(BadQuery) as caught:
        query(request(raw))
    assert (caught.value.status, caught.value.code) == (400, "INVALID_REQUEST")


def test_query_cannot_be_changed_for_the_next_caller() -> None:
    with pytest.raises(TypeError):
        query(request(b"a=b"))["a"] = "c"  # type: ignore[index]


NSQ = b"X-Nsq-Content-Type: nsq; version=1.0\r\n"


@pytest.mark.parametrize(
    ("response", "head", "body"),
    [
        (text("OK"), b"200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n" + NSQ, b"OK"),
        (text("OK", nsq=False), b"200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n", b"OK"),
        (text(""), b"200 OK\r\n" + NSQ, b""),
        (
            json_body({"a": [1, "<b>&"], "é": None}),
            b"200 OK\r\nContent-Type: application/json; charset=utf-8\r\n" + NSQ,
            '{"a":[1,"\\u003cb\\u003e\\u0026"],"é":null}'.encode(),
        ),
        (
            error(404, "NOT_FOUND"),
            b"404 Not Found\r\nContent-Type: application/json; charset=utf-8\r\n" + NSQ,
            b'{"message":"NOT_FOUND"}',
        ),
        (Response(299, headers=((b"A", b"b"),)), b"299 Status\r\n" + NSQ + b"A: b\r\n", b""),
    ],
)
def test_render(response: Response, head: bytes, body: bytes) -> None:
    end = b"Content-Length: %d\r\n" % len(body)
    date = date_line()
    assert render(response, "1.1", keep_alive=True, head_only=False) in (
        b"HTTP/1.1 " + head + date + end + b"\r\n" + body,
        b"HTTP/1.1 " + head + date_line() + end + b"\r\n" + body,  # a second may have begun
    )
    wire = render(response, "1.0", keep_alive=True, head_only=True)
    assert wire.startswith(b"HTTP/1.0 " + head)
    assert wire.endswith(end + b"Connection: keep-alive\r\n\r\n")
    wire = render(response, "1.1", keep_alive=False, head_only=False)
    assert wire.endswith(end + b"Connection: close\r\n\r\n" + body)


def test_date() -> None:
    name, _, value = date_line().strip().decode().partition(": ")
    assert name == "Date"
    assert abs(email.utils.parsedate_to_datetime(value).timestamp() - time.time()) < 3
    assert value == email.utils.formatdate(email.utils.parsedate_to_datetime(value).timestamp(), usegmt=True)


def test_kept_rendering_gets_a_new_date(monkeypatch: pytest.MonkeyPatch) -> None:
    response = text("OK")
    monkeypatch.setattr(time, "time", lambda: 0.5)
    first = response.rendered()
    assert b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" in first
    monkeypatch.setattr(time, "time", lambda: 86400.9)
    assert b"Date: Fri, 02 Jan 1970 00:00:00 GMT\r\n" in response.rendered()
    assert response.rendered() is response.rendered()


@pytest.mark.parametrize("status", [204, 304])
def test_no_length_is_told_where_there_can_be_no_body(status: int) -> None:
    wire = render(Response(status, headers=((b"ETag", b'"x"'),)), "1.1", keep_alive=True, head_only=False)
    assert b"Content-Length" not in wire
    assert wire.endswith(b"\r\n\r\n")
