"""Search, order and pages of a long table, decided by the address of the page and done before rendering.

A page has a row of at most `PAGE_LIMIT` entries in hand, whatever the cluster has: 10,000 topics cost one pass to
filter and one to sort. `Choice` is what the address says, made harmless; `Slice` is what the template shows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from attrs import define, evolve, field

__all__ = ["Choice", "Column", "Slice", "read_choice", "take"]

PAGE_LIMIT = 50
_WORDS_BYTES = 200

T = TypeVar("T")


@define(frozen=True, kw_only=True)
class Column(Generic[T]):
    """One column that a table can be ordered by."""

    key: str
    title: str
    value: Callable[[T], Any]
    numeric: bool = True
    hint: str = ""
    optional: str = ""
    """CSS class of columns that a narrow screen leaves out."""

    @property
    def starts_down(self) -> bool:
        """The first click shows the largest first; names begin at a."""
        return self.numeric


@define(frozen=True, kw_only=True)
class Choice:
    """What the address of the page asks of its table."""

    path: str
    words: str = ""
    """Part of the names, any case."""
    sort: str = ""
    down: bool = False
    show: str = ""
    """Name of a filter; empty: all."""
    page: int = 1
    keep: tuple[tuple[str, str], ...] = ()
    """Parameters that are not the table's own and stay in its links."""

    def link(self, **changes: Any) -> str:
        """The address of the same table with other choices; any change but of the page begins at page 1."""
        chosen = {
            "q": self.words,
            "show": self.show,
            "sort": self.sort,
            "order": "desc" if self.down else "asc",
            **dict(self.keep),
            "page": 1,
            **changes,
        }
        if not chosen["sort"]:
            chosen.pop("order")
        pairs = [(key, value) for key, value in chosen.items() if value != "" and (key, value) != ("page", 1)]
        return f"{self.path}?{urlencode(pairs)}" if pairs else self.path

    def sort_link(self, column: Column[Any]) -> str:
        """The address for a click on the column's head: the other way round when it is the one already."""
        down = not self.down if column.key == self.sort else column.starts_down
        return self.link(sort=column.key, order="desc" if down else "asc")

    def aria_sort(self, column: Column[Any]) -> str:
        """The value of `aria-sort`; empty for a column that does not decide."""
        if column.key != self.sort:
            return ""
        return "descending" if self.down else "ascending"


@define(frozen=True)
class Slice(Generic[T]):
    """The part of a table that one page shows."""

    choice: Choice
    columns: Sequence[Column[T]]
    rows: list[T]
    matching: int
    """Entries that fit search and filter."""
    total: int
    pages: int = field(default=1)
    per_page: int = field(default=PAGE_LIMIT)

    @property
    def first(self) -> int:
        """The number of the first row shown, from 1."""
        return (self.choice.page - 1) * self.per_page + 1

    @property
    def last(self) -> int:
        """The number of the last row shown."""
        return self.first + len(self.rows) - 1


def read_choice(
    path: str,
    params: Mapping[str, str],
    columns: Iterable[Column[Any]],
    *,
    sort: str,
    filters: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> Choice:
    """Read the query of a page. What it says and nobody offers is taken as not said; `sort` is the usual order."""
    by_key = {column.key: column for column in columns}
    chosen = params.get("sort", "")
    key = chosen if chosen in by_key else sort
    order = params.get("order", "") if chosen in by_key else ""
    down = order == "desc" if order in ("asc", "desc") else by_key[key].starts_down
    show = params.get("show", "")
    page = params.get("page", "")
    return Choice(
        path=path,
        words=params.get("q", "").strip()[:_WORDS_BYTES],
        sort=key,
        down=down,
        show=show if show in set(filters) else "",
        page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        keep=tuple((name, params[name]) for name in keep if params.get(name)),
    )


def take(
    entries: Sequence[T],
    choice: Choice,
    columns: Sequence[Column[T]],
    *,
    text: Callable[[T], str],
    fits: Callable[[T], bool] | None = None,
    per_page: int = PAGE_LIMIT,
) -> Slice[T]:
    """Filter, order and cut. Entries must come in the order that ties are to have. A page past the end is the last."""
    words = choice.words.lower()
    found: Sequence[T] = entries
    if words:
        found = [entry for entry in found if words in text(entry).lower()]
    if fits is not None:
        found = [entry for entry in found if fits(entry)]
    pages = max(1, -(-len(found) // per_page))
    page = min(choice.page, pages)
    shown = _cut(found, choice, columns, (page - 1) * per_page, per_page)
    return Slice(evolve(choice, page=page), columns, shown, len(found), len(entries), pages, per_page)


def _cut(found: Sequence[T], choice: Choice, columns: Sequence[Column[T]], start: int, count: int) -> list[T]:
    value = next(column.value for column in columns if column.key == choice.sort)
    if start == 0 and len(found) > 4 * count:
        # The first page is what nearly everybody looks at: no need to order what comes after it.
        best = heapq.nlargest if choice.down else heapq.nsmallest
        return best(count, found, key=value)
    return sorted(found, key=value, reverse=choice.down)[start : start + count]
