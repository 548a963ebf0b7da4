"""The page of the registries: their state, the topics that no node has, and a form to create topics and channels."""

from __future__ import annotations

import trio
from attrs import define

from nsqadmin.cluster.snapshot import ClusterSnapshot
from nsqadmin.console import Console
from nsqadmin.pages.action_buttons import ActionButton, delete_channel_button, delete_topic_button
from nsqadmin.pages.page_request import Page, PageRequest
from nsqadmin.pages.tables import Column, read_table_query, select_page
from nsqadmin.upstream import UpstreamFailed, Warnings

__all__ = ["LookupPage"]

TIMEOUT_SECONDS = 4.0
"""For the registries."""


@define(frozen=True)
class Inactive:
    """A topic that only the registries know."""

    name: str
    channels: list[str]


@define(frozen=True)
class Leaf:
    """A topic or channel with its button."""

    name: str
    path: str
    delete: ActionButton


@define(frozen=True)
class InactiveRow:
    """A topic with its channels."""

    topic: Leaf
    channels: list[Leaf]


@define(frozen=True)
class RegistryRow:
    """One nsqlookupd."""

    address: str
    problem: str
    """Empty if it answers."""


@define(frozen=True)
class _Result:
    topics: list[Inactive]
    problem: str


COLUMNS: tuple[Column[Inactive], ...] = (
    Column(key="name", title="Topic", value=lambda each: each.name, numeric=False),
)


class LookupPage:
    """Queries the registries at most once for each snapshot, however many users view the page."""

    def __init__(self) -> None:
        self._snapshot: ClusterSnapshot | None = None
        self._result = _Result([], "")
        self._lock = trio.Lock()

    async def __call__(self, request: PageRequest) -> Page:
        """The registries, and the topics that only they know."""
        registries = request.console.options.lookupd_http_addresses
        console, visible = request.console, request.identity.topics
        result = await self._query(console, console.poller.snapshot) if registries else _Result([], "")
        inactive = [each for each in result.topics if visible.include(each.name)]
        query = read_table_query(request.own_url, request.query, COLUMNS, sort="name")
        table = select_page(
            inactive, query, COLUMNS, text=lambda each: f"{each.name} {' '.join(each.channels)}"
        )
        problems = {
            each.address: each.error for each in request.snapshot.problems if each.kind == "nsqlookupd"
        }
        values = {
            "registries": [RegistryRow(each, problems.get(each, "")) for each in registries],
            "inactive_problem": result.problem,
            "table": table,
            "rows": [_row(request, each) for each in table.rows],
        }
        return Page("lookup.html", "lookup", values)

    async def _query(self, console: Console, snapshot: ClusterSnapshot) -> _Result:
        async with self._lock:
            # After a failure the next request tries again, without waiting for a new snapshot.
            if snapshot is not self._snapshot or self._result.problem:
                self._result = await _inactive_topics(console)
                self._snapshot = snapshot
            return self._result


async def _inactive_topics(console: Console) -> _Result:
    try:
        with trio.fail_after(TIMEOUT_SECONDS):
            found = await console.queries.inactive_topics(Warnings())
    except trio.TooSlowError:
        return _Result([], f"The registries did not answer within {TIMEOUT_SECONDS:.0f} s.")
    except UpstreamFailed as failure:
        return _Result([], f"No registry answers: {failure}")
    return _Result([Inactive(name, channels) for name, channels in sorted(found.items())], "")


def _row(request: PageRequest, topic: Inactive) -> InactiveRow:
    return InactiveRow(
        Leaf(topic.name, request.topic_url(topic.name), delete_topic_button(request, topic.name)),
        [
            Leaf(
                name, request.channel_url(topic.name, name), delete_channel_button(request, topic.name, name)
            )
            for name in topic.channels
        ],
    )
