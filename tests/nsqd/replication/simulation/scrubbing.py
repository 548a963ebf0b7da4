"""The leader's scrub, as the daemon runs it, but without pauses between two looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from nsqd.replication.scrub import Finding, Replaced, Request, Scrub, SendAgain
from nsqd.replication.to_follower import _Question
from nsqd.replication.wire import Checked, Data
from tests.nsqd.replication.scrubbing import log_of
from tests.nsqd.replication.simulation.machine import Daemon, Process

if TYPE_CHECKING:
    from tests.nsqd.replication.simulation.leader import Link

__all__ = ["scrubbing"]


def scrubbing(
    daemon: Daemon, links: Mapping[str, Link], found: Callable[[Finding], None], passed: Callable[[], None]
) -> Process[None]:
    """`found`: called with each finding. `passed`: at the end of each pass."""
    scrub = Scrub(
        daemon.noted.inner, daemon.noted.notes, lambda folder: log_of(daemon, folder), interval=1.0, fast=0.0
    )
    passes = 0
    while True:
        in_step = [name for name, link in links.items() if link.standing.in_step]
        if in_step:
            scrub.count()
            looking = scrub.look(in_step, 0.0)
            answer: Checked | Data | None = None
            with closing(looking):
                while True:
                    try:
                        request = looking.send(answer)
                    except StopIteration as end:
                        for finding in end.value[1]:
                            found(finding)
                        break
                    answer = (yield from _done(links, *request)) if request is not None else None
            if scrub.passes > passes:
                passes = scrub.passes
                scrub.write_note()
                passed()
        yield


def _done(links: Mapping[str, Link], address: str, request: Request) -> Process[Checked | Data | None]:
    if isinstance(request, Replaced):
        for link in links.values():
            if link.sender is not None:
                link.sender.reread(request.path)
        return None
    link = links[address]
    if link.sender is None or not link.standing.in_step:
        return None
    if isinstance(request, SendAgain):
        link.sender.send_again(request.path)
        return None
    if not link.sender.has(request.path):
        return None
    question = link.question = _Question(request)
    while not question.settled.is_set():
        yield
    return question.answer
