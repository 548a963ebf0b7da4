"""The rows: what work is done, with which load for which protocol.

Rows are data. Adding one is adding an entry here; the runner, the table and the JSON need no change.
"""

from __future__ import annotations

import attrs

__all__ = ["FULL", "QUICK", "ROWS", "Row", "Scale"]


@attrs.frozen
class Scale:
    """How long a run lasts."""

    runs: int
    seconds: float
    """Of rows that publish for a time."""
    batch_messages: int
    """Of rows that do a number of messages in bulk."""
    single_messages: int
    """Of rows that consume one message a time."""
    latency_samples: int
    sync_rounds: int
    queued_messages: int = 1_000_000
    """Of the memory row: the same at every scale, because it is the figure itself."""


FULL = Scale(
    runs=3,
    seconds=2.0,
    batch_messages=2_000_000,
    single_messages=200_000,
    latency_samples=2000,
    sync_rounds=200,
)
QUICK = Scale(
    runs=1, seconds=0.8, batch_messages=500_000, single_messages=50_000, latency_samples=1000, sync_rounds=60
)


@attrs.frozen
class Row:
    """One kind of work. `loads` maps a protocol to arguments of `bench.load`, `{...}` from the scale."""

    name: str
    title: str
    measures: str
    """`rate`, `latency`, `start` (time until it listens) or `memory` (RSS after the load)."""
    loads: dict[str, str]
    to_disk: bool = False
    http: bool = False


ROWS = (
    Row(
        "start",
        "start: from exec until it listens",
        "start",
        {"nsq": "", "beanstalk": ""},
    ),
    Row(
        "mpub",
        "publish, batches of 200, 2 connections",
        "rate",
        {"nsq": "mpub --conns=2 --count={batch_messages}"},
    ),
    Row(
        "sub",
        "consume and finish, RDY 2500, 2 connections",
        "rate",
        {"nsq": "sub --conns=2 --rdy=2500 --count={batch_messages}"},
    ),
    Row(
        "both",
        "publish in batches and consume at once, 2 + 2 connections",
        "rate",
        {"nsq": "both --conns=2 --rdy=2500 --count={batch_messages}"},
    ),
    Row(
        "pub-1",
        "publish one at a time, 1 connection",
        "rate",
        {
            "nsq": "pub --conns=1 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=1 --seconds={seconds}",
        },
    ),
    Row(
        "pub-16",
        "publish one at a time, 16 connections",
        "rate",
        {
            "nsq": "pub --conns=16 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=16 --seconds={seconds}",
        },
    ),
    Row(
        "pub-64",
        "publish one at a time, 64 connections",
        "rate",
        {"nsq": "pub --conns=64 --seconds={seconds}"},
    ),
    Row(
        "pub-pipelined",
        "publish, pipelined 100 deep, 16 connections",
        "rate",
        {
            "nsq": "pub --conns=16 --depth=100 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=16 --depth=100 --seconds={seconds}",
        },
    ),
    Row(
        "sub-1",
        "consume and finish one at a time, 16 connections",
        "rate",
        {
            "nsq": "sub --conns=16 --rdy=1 --count={single_messages}",
            "beanstalk": "beanstalk-reserve --conns=16 --count={single_messages}",
        },
    ),
    Row(
        "sub-100",
        "consume and finish, 100 in flight, 16 connections",
        "rate",
        {
            "nsq": "sub --conns=16 --rdy=100 --count={batch_messages}",
            "beanstalk": "beanstalk-reserve --conns=16 --depth=100 --count={single_messages}",
        },
    ),
    Row(
        "http",
        "POST /pub, kept alive, 32 connections",
        "rate",
        {"nsq": "http-pub --conns=32 --seconds={seconds}"},
        http=True,
    ),
    Row(
        "latency",
        "publish to delivery, idle broker",
        "latency",
        {"nsq": "latency --size=100 --count={latency_samples}"},
    ),
    Row(
        "memory",
        "memory at start, and with 1,000,000 messages of 200 bytes queued",
        "memory",
        {
            "nsq": "mpub --conns=2 --count={queued_messages}",
            "beanstalk": "beanstalk-fill --conns=16 --depth=100 --count={queued_messages}",
        },
    ),
    Row(
        "disk",
        "every answer waits for the disk: one at a time, 64 connections",
        "rate",
        {
            "nsq": "pub --conns=64 --seconds={seconds}",
            "beanstalk": "beanstalk-put --conns=64 --seconds={seconds}",
        },
        to_disk=True,
    ),
)
