"""What the tests of the tools ask of an nsqd."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.process.daemon import Daemon
from tests.process.waiting import wait_until

__all__ = ["address", "bodies", "clients", "fill", "publish", "wait_finished", "wait_subscribed"]


def address(nsqd: Daemon) -> str:
    """The flag of a tool that connects to this nsqd."""
    return f"-nsqd-tcp-address={nsqd.tcp_address}"


def bodies(first: int, last: int) -> list[bytes]:
    """Bodies that tell which they are; `last` is not among them."""
    return [b"message-%07d" % number for number in range(first, last)]


def publish(nsqd: Daemon, topic: str, messages: Sequence[bytes]) -> None:
    """Publish a batch, and see that it was accepted."""
    status, answer = nsqd.request("POST", f"/mpub?topic={topic}", b"\n".join(messages))
    assert (status, answer) == (200, b"OK")


def fill(nsqd: Daemon, topic: str, channel: str, messages: Sequence[bytes]) -> None:
    """Publish a batch for a consumer that is still to come."""
    nsqd.create_channel(topic, channel)
    publish(nsqd, topic, messages)


def clients(nsqd: Daemon, topic: str, channel: str) -> list[dict[str, object]]:
    """The consumers of a channel, as nsqd shows them."""
    status, answer = nsqd.request("GET", f"/stats?format=json&topic={topic}&channel={channel}")
    assert status == 200
    found = [found for entry in json.loads(answer)["topics"] or () for found in entry["channels"] or ()]
    return list(found[0]["clients"]) if found else []


def wait_subscribed(nsqd: Daemon, topic: str, channel: str) -> None:
    """Wait until somebody consumes it."""
    wait_until(lambda: bool(clients(nsqd, topic, channel)), 10.0, f"a consumer of {topic}/{channel}")


def wait_finished(nsqd: Daemon, topic: str, channel: str, within_s: float = 20.0) -> None:
    """Wait until nothing of it is left."""
    wait_until(
        lambda: nsqd.unfinished(topic, channel) == 0,
        within_s,
        f"{topic}/{channel} is empty",
        describe=lambda: str(nsqd.channel_stats(topic, channel)),
    )
