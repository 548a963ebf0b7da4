"""nsq_peek against real daemons, and against those that cannot show their messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsqkit.service.http import Request, Response, error, json_body
from tests.nsqkit.http_target import Target
from tests.nsqtools.broker import bodies, fill
from tests.nsqtools.tool import run_tool, run_with_full_stdout
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.raw import RawClient

pytestmark = pytest.mark.process

WHERE = ["-topic=t", "-channel=c"]


@pytest.fixture(scope="module")
def nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One with 2,500 messages."""
    with Daemon(tmp_path_factory.mktemp("nsqd")) as daemon:
        daemon.start()
        fill(daemon, "t", "c", bodies(0, 2500))
        yield daemon


def peek(daemon: Daemon, *flags: str) -> tuple[int, bytes, str]:
    """Run it: exit code, stdout, and stderr without dates."""
    address = f"-nsqd-http-address={HOST}:{daemon.http_port}"
    done = run_tool("nsq_peek", address, *WHERE, *flags)
    return (
        done.returncode,
        done.stdout,
        re.sub(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(\.\d+)? ", "", done.stderr.decode()),
    )


@pytest.mark.parametrize(("count", "shown"), [(None, 10), (1001, 1001), (0, 2500)])
def test_the_first_messages_are_printed(nsqd: Daemon, count: int | None, shown: int) -> None:
    code, out, err = peek(nsqd, *([] if count is None else [f"-n={count}"]))
    assert (code, err) == (0, "")
    assert out.splitlines() == bodies(0, shown)
    assert nsqd.unfinished("t", "c") == 2500


def test_a_search_looks_at_a_bounded_number(nsqd: Daemon) -> None:
    code, out, err = peek(nsqd, "-contains=0002222")
    assert (code, out) == (0, b"message-0002222\n")
    assert err == f"INFO: {HOST}:{nsqd.http_port}: looked at 2500 of 2500 messages\n"
    code, out, err = peek(nsqd, "-contains=0002222", "-examine=2000")
    assert (code, out) == (0, b"")
    assert "looked at 2000 of 2500 messages" in err


def test_json_has_everything(nsqd: Daemon) -> None:
    fill(nsqd, "json", "c", [b'{"id":1}', b'{"id":2,"name":"x=y"}'])
    with RawClient.connect(nsqd.tcp_port) as client:
        client.identify(client_id="who", feature_negotiation=True)
        client.sub("json", "c")
        client.rdy(2)
        ids = [client.message().id.decode() for _ in range(2)]
        flags = ["-topic=json", "-state=in_flight", "-format=json", "-json=/id=2", "-json=/name=x=y"]
        code, out, _ = peek(nsqd, *flags)
        assert code == 0
        message = json.loads(out)
    assert message["nsqd"] == f"{HOST}:{nsqd.http_port}"
    assert (message["id"], message["attempts"], message["body"]) == (ids[1], 1, '{"id":2,"name":"x=y"}')
    assert message["consumer"]["client_id"] == "who"


def test_bytes_are_printed_as_they_are(nsqd: Daemon) -> None:
    nsqd.create_channel("bytes", "c")
    assert nsqd.request("POST", "/pub?topic=bytes", b"\xff\x00")[0] == 200
    assert peek(nsqd, "-topic=bytes")[1] == b"\xff\x00\n"


def test_all_nsqds_of_the_topic_are_looked_into(tmp_path: Path) -> None:
    with LookupDaemon() as lookup, Daemon(tmp_path / "a") as first, Daemon(tmp_path / "b") as second:
        lookup.start()
        for number, daemon in enumerate((first, second)):
            daemon.data_path.mkdir()
            daemon.flags = [
                f"--lookupd-tcp-address={lookup.tcp_address}",
                f"--broadcast-address={HOST}",
            ]
            daemon.start()
            fill(daemon, "t", "c" if number else "other", bodies(number, number + 1))
        done = run_tool("nsq_peek", *WHERE, f"-lookupd-http-address={HOST}:{lookup.http_port}")
        assert (done.returncode, done.stdout) == (0, b"message-0000001\n"), done.stderr
        done = run_tool(
            "nsq_peek", *WHERE, "-channel=none", f"-lookupd-http-address={HOST}:{lookup.http_port}"
        )
        assert done.returncode == 1
        assert b"ERROR: no nsqd has the channel none of topic t" in done.stderr


def made_up(answer: Response) -> tuple[int, str]:
    """Look into an nsqd that answers so: exit code and stderr."""

    def answered(request: Request) -> Response:
        return answer

    with Target() as target:
        target.answer = answered
        done = run_tool("nsq_peek", *WHERE, f"-nsqd-http-address={HOST}:{target.port}")
    return done.returncode, done.stderr.decode()


BAD_PAGES: list[tuple[Any, str]] = [
    ({}, "unexpected response: KeyError('messages')"),
    ({"messages": 1, "next": None, "examined": 1}, "unexpected response: TypeError"),
    ([], "the answer is no JSON object"),
]


@pytest.mark.parametrize(("answer", "text"), BAD_PAGES)
def test_other_responses_are_errors(answer: Any, text: str) -> None:
    code, err = made_up(json_body(answer))
    assert code == 1
    assert text in err


def test_the_original_cannot_show_its_messages() -> None:
    code, err = made_up(error(404, "NOT_FOUND"))
    assert code == 1
    assert "cannot show its messages: its version of nsqd has no such request" in err


def test_a_full_disk_is_an_error(nsqd: Daemon) -> None:
    done = run_with_full_stdout("nsq_peek", *WHERE, f"-nsqd-http-address={HOST}:{nsqd.http_port}")
    assert done.returncode == 1
    assert b"failed to write to stdout - No space left on device" in done.stderr
