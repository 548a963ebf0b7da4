"""Lines: what they have, how long they are, and that no secret is in them."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.access import new_secret
from nsqkit.audit import Event, Means, Result, Who
from nsqkit.audit.event import MAX_LINE, MAX_TEXT, shown

TIME = 1_796_140_800.25
ANN = Who("ann", Means.TOKEN, "10.0.0.9:51234")


def decoded(event: Event) -> dict[str, Any]:
    line = event.line("nsqd", "10.0.0.7:4151")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_change() -> None:
    event = Event(
        time=TIME,
        who=ANN,
        what="POST /topic/pause",
        on={"topic": "orders", "channel": ""},
        before={"paused": False, "depth": 0},
        after={"paused": True},
        status=200,
    )
    assert event.line("nsqd", "10.0.0.7:4151") == (
        b'{"time":"2026-12-01T16:00:00.250000Z","level":"AUDIT","daemon":"nsqd","node":"10.0.0.7:4151",'
        b'"who":"ann","means":"token","from":"10.0.0.9:51234","what":"POST /topic/pause",'
        b'"on":{"topic":"orders"},"before":{"paused":false,"depth":0},"after":{"paused":true},'
        b'"result":"ok","status":200}\n'
    )


def test_refusals_have_a_reason_and_perhaps_a_number() -> None:
    event = Event(time=TIME, who=Who(), what="PUB", result=Result.REFUSED, error="E_AUTH_FIRST", count=7)
    line = decoded(event)
    assert (line["means"], line["result"], line["error"], line["count"]) == (
        "anonymous",
        "refused",
        "E_AUTH_FIRST",
        7,
    )
    assert not {"who", "from", "on", "before", "after", "status"} & line.keys()


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("s3cr3t", "http://joe:s3cr3t@10.0.0.1/x"),
        ("s3cr3t", "GET /x?token=s3cr3t&n=1"),
        ("s3cr3t", "joe:s3cr3t@10.0.0.1"),
        ("s3cr3t", "GET http://joe:s3cr3t" + "x" * 400 + "@10.0.0.1/x"),
        ("s3cr3t", "x " * 90 + "a?token=s3cr3t" + "x" * 400),
        ("a token", ""),
    ],
)
def test_a_secret_in_any_text_is_left_out(secret: str, text: str) -> None:
    if not text:
        secret = new_secret()
        text = f"orders {secret}"
    texts: dict[str, Any] = {
        "what": text,
        "error": text,
        "on": {"topic": text, text: "x"},
        "before": {"addresses": [text, text]},
        "after": {"address": text},
        "who": Who(text, Means.HEADER, text),
    }
    assert texts.keys() == {
        field.name for field in attrs.fields(Event) if field.name not in ("time", "result", "status", "count")
    }
    for name, value in texts.items():
        event = attrs.evolve(Event(time=TIME, who=ANN, what="x", result=Result.FAILED), **{name: value})
        line = event.line("nsqd", text)
        assert secret.encode() not in line, name


def test_names_that_only_look_like_a_token_are_shown() -> None:
    assert shown("nsq_orders") == "nsq_orders"
    assert shown("nsq_" + "a" * 50) == "nsq_" + "a" * 50


@given(st.text(), st.text(max_size=5000))
def test_any_text_makes_one_valid_line(name: str, text: str) -> None:
    values = {f"{name}{number}": [text] * 30 for number in range(30)}
    event = Event(
        time=TIME,
        who=Who(text, Means.HEADER, text),
        what=text,
        on=values,
        before=values,
        after=values,
        error=text,
    )
    line = event.line("nsqd", text)
    assert len(line) <= MAX_LINE
    assert json.loads(line)["level"] == "AUDIT"
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("control", ["\x1b", "\x7f", "\x9b", "\x9d", "\u202e", "\u2028", "\U000e0001"])
def test_what_a_terminal_obeys_is_escaped(control: str) -> None:
    event = Event(time=TIME, who=ANN, what=f"a{control}ä", on={"topic": control})
    line = event.line("nsqd", "n:1").decode()
    assert line.removesuffix("\n").isprintable()
    assert decoded(event)["what"] == f"a{control}ä"


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    long = {f"name-{number}": "x" * 150 for number in range(40)}
    short = {"topic": "orders"}
    line = decoded(Event(time=TIME, who=ANN, what="x", on=short, before=long, after=long))
    assert (line["on"], line["cut"]) == (short, True)
    assert "before" not in line
    line = decoded(
        Event(time=TIME, who=ANN, what="x", on={**long, **dict.fromkeys("abcdefgh", "y" * 200)}, after=long)
    )
    assert (line["what"], line["cut"]) == ("x", True)
    assert "on" not in line


def test_long_texts_and_lists_are_cut() -> None:
    line = decoded(Event(time=TIME, who=ANN, what="x" * 1000, after={"names": [str(n) for n in range(50)]}))
    assert line["what"] == "x" * (MAX_TEXT - 1) + "…"
    assert line["after"]["names"][-1] == "and 30 more"


def test_a_surrogate_is_written_out() -> None:
    assert decoded(Event(time=TIME, who=ANN, what="\udc80"))["what"] == r"\udc80"
