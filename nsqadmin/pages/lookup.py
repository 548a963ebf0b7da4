"""The page of the registries: which there are, topics that no node has any more, and a form to create one."""

from __future__ import annotations

import trio
from attrs import define

from nsqadmin.cluster.views import Snapshot
from nsqadmin.console import Console
from nsqadmin.pages.asking import Action, delete_channel, delete_topic
from nsqadmin.pages.tables import Column, read_choice, take
from nsqadmin.pages.visit import Page, Visit
from nsqadmin.upstream import UpstreamFailed, Warnings

__all__ = ["LookupPage"]

ANSWER_SECONDS = 4.0
"""How long the page waits for the registries."""


@define(frozen=True)
class Inactive:
    """A topic that only the registries know."""

    name: str
    channels: list[str]


@define(frozen=True)
class Leaf:
    """One name with its button."""

    name: str
    path: str
    delete: Action


@define(frozen=True)
class InactiveRow:
    """One topic with its channels."""

    topic: Leaf
    channels: list[Leaf]


@define(frozen=True)
class RegistryRow:
    """One nsqlookupd."""

    address: str
    problem: str
    """Empty while it answers."""


@define(frozen=True)
class _Answer:
    topics: list[Inactive]
    problem: str


COLUMNS: tuple[Column[Inactive], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.name, numeric=False),
)


class LookupPage:
    """Asks the registries at most once for each snapshot, however many look."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._answer = _Answer([], "")
        self._asking = trio.Lock()

    async def __call__(self, visit: Visit) -> Page:
        """Show the registries and what they alone know."""
        registries = visit.console.options.lookupd_http_addresses
        answer = await self._ask(visit.console, visit.snapshot) if registries else _Answer([], "")
        choice = read_choice(visit.here, visit.params, COLUMNS, sort="name")
        table = take(
            answer.topics, choice, COLUMNS, text=lambda each: f"{each.name} {' '.join(each.channels)}"
        )
        problems = {each.address: each.error for each in visit.snapshot.problems if each.kind == "nsqlookupd"}
        values = {
            "registries": [RegistryRow(each, problems.get(each, "")) for each in registries],
            "inactive_problem": answer.problem,
            "table": table,
            "rows": [_row(visit, each) for each in table.rows],
        }
        return Page("lookup.html", "lookup", values)

    async def _ask(self, console: Console, snapshot: Snapshot) -> _Answer:
        async with self._asking:
            if snapshot is not self._snapshot or self._answer.problem:
                self._answer = await _inactive_topics(console)
                self._snapshot = snapshot
            return self._answer


async def _inactive_topics(console: Console) -> _Answer:
    try:
        with trio.fail_after(ANSWER_SECONDS):
            found = await console.live.inactive_topics(Warnings())
    except trio.TooSlowError:
        return _Answer([], f"The registries did not answer within {ANSWER_SECONDS:.0f} s.")
    except UpstreamFailed as failure:
        return _Answer([], f"No registry answers: {failure}")
    return _Answer([Inactive(name, channels) for name, channels in sorted(found.items())], "")


def _row(visit: Visit, topic: Inactive) -> InactiveRow:
    return InactiveRow(
        Leaf(topic.name, visit.topic_url(topic.name), delete_topic(visit, topic.name)),
        [
            Leaf(name, visit.channel_url(topic.name, name), delete_channel(visit, topic.name, name))
            for name in topic.channels
        ],
    )
