"""Tools on a closed cluster, with the flags of the original: its options carry TLS and the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nsqtools.tool import Tool, run_tool
from tests.process.closed import Closed
from tests.process.daemon import HOST, Daemon
from tests.process.lookup import LookupDaemon
from tests.process.waiting import wait_until

pytestmark = pytest.mark.process


SCOPES = {
    "producer": ["publish:orders"],
    "mirror": ["consume:orders/mirror", "publish:copies"],
    "consumer": ["consume:copies/*"],
}


@pytest.fixture
def closed(tmp_path: Path) -> Closed:
    return Closed.in_folder(tmp_path)


@pytest.fixture
def tokens(closed: Closed) -> dict[str, str]:
    """By name; made before the daemons start, which therefore know them from the beginning."""
    return {name: closed.new_token(name, *scopes) for name, scopes in SCOPES.items()}


@pytest.fixture
def lookupd(closed: Closed, tokens: dict[str, str]) -> Iterator[LookupDaemon]:
    with LookupDaemon(flags=[f"--broadcast-address={HOST}"], closed=closed) as lookupd:
        lookupd.start()
        yield lookupd


@pytest.fixture
def nsqd(closed: Closed, lookupd: LookupDaemon, tmp_path: Path) -> Iterator[Daemon]:
    folder = tmp_path / "data"
    folder.mkdir()
    flags = [f"--broadcast-address={HOST}", f"--lookupd-tcp-address={lookupd.tcp_address}"]
    with Daemon(folder, flags, closed=closed) as nsqd:
        nsqd.start()
        yield nsqd


def options(flag: str, closed: Closed, token: str) -> list[str]:
    """What a tool needs for TLS and a token; `flag`: consumer or producer."""
    authority = closed.certificates.root_ca_file
    return [
        f"-{flag}-opt={each}" for each in ("tls_v1", f"tls_root_ca_file,{authority}", f"auth_secret,{token}")
    ]


def test_messages_go_through_tools_with_tokens(
    closed: Closed, tokens: dict[str, str], nsqd: Daemon, lookupd: LookupDaemon, tmp_path: Path
) -> None:
    """Published by one, copied to another topic by the next one, found through the registry and printed by the last."""
    at_nsqd = f"-nsqd-tcp-address={nsqd.tcp_address}"
    sent = run_tool(
        "to_nsq", "-topic=orders", at_nsqd, *options("producer", closed, tokens["producer"]), stdin=b"1\n2\n"
    )
    assert sent.returncode == 0, sent.stderr
    copying = ["-topic=orders", "-channel=mirror", "-destination-topic=copies", at_nsqd]
    copying += [f"-destination-nsqd-tcp-address={nsqd.tcp_address}"]
    copying += [
        *options("consumer", closed, tokens["mirror"]),
        *options("producer", closed, tokens["mirror"]),
    ]
    with Tool(tmp_path, "nsq_to_nsq", *copying):
        wait_until(lambda: "copies" in lookupd.topics(), 15.0, "copied", describe=nsqd.log_end)
        at_registry = f"-lookupd-http-address={lookupd.lookup_address}"
        found = [
            "-topic=copies",
            "-channel=c",
            "-n=2",
            at_registry,
            *options("consumer", closed, tokens["consumer"]),
        ]
        printed = run_tool("nsq_tail", *found)
    assert printed.stdout == b"1\n2\n", printed.stderr


def test_a_tool_with_the_wrong_token_ends_with_an_error(
    closed: Closed, tokens: dict[str, str], nsqd: Daemon
) -> None:
    at_nsqd = f"-nsqd-tcp-address={nsqd.tcp_address}"
    done = run_tool(
        "to_nsq", "-topic=orders", at_nsqd, *options("producer", closed, tokens["consumer"]), stdin=b"1\n"
    )
    assert (done.returncode, b"E_UNAUTHORIZED" in done.stderr) == (1, True), done
    assert nsqd.stats()["topics"] == []
