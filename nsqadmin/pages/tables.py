"""Search, order and paging of a long table. They are given by the address of the page, and done before rendering.

A page shows at most `PAGE_LIMIT` rows, whatever the size of the cluster: with 10,000 topics, one pass filters and one
sorts. `TableQuery` is the validated query of the address; `TablePage` is what the template renders.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from attrs import define, evolve, field

__all__ = ["Column", "TablePage", "TableQuery", "read_table_query", "select_page"]

PAGE_LIMIT = 50
_MAX_SEARCH = 200  # characters

T = TypeVar("T")


@define(frozen=True, kw_only=True)
class Column(Generic[T]):
    """A column that a table can be ordered by."""

    key: str
    title: str
    value: Callable[[T], Any]
    numeric: bool = True
    hint: str = ""
    optional: str = ""
    """CSS class that hides the column on narrow screens."""

    @property
    def starts_descending(self) -> bool:
        """Whether the first click orders descending: numbers do, names do not."""
        return self.numeric


@define(frozen=True, kw_only=True)
class TableQuery:
    """Search, filter, order and page of a table."""

    path: str
    search: str = ""
    """Part of the names, case-insensitive."""
    sort: str = ""
    descending: bool = False
    show: str = ""
    """Name of a filter; empty for all entries."""
    page: int = 1
    keep: tuple[tuple[str, str], ...] = ()
    """Other parameters of the page, which are kept in the links of the table."""

    def link(self, **changes: Any) -> str:
        """The address of the same table with other parameters; any change except of the page leads to page 1."""
        query = {
            "q": self.search,
            "show": self.show,
            "sort": self.sort,
            "order": "desc" if self.descending else "asc",
            **dict(self.keep),
            "page": 1,
            **changes,
        }
        if not query["sort"]:
            query.pop("order")
        pairs = [(key, value) for key, value in query.items() if value != "" and (key, value) != ("page", 1)]
        return f"{self.path}?{urlencode(pairs)}" if pairs else self.path

    def sort_link(self, column: Column[Any]) -> str:
        """The address for a click on the column's head, which reverses the order if the table is ordered by it."""
        descending = not self.descending if column.key == self.sort else column.starts_descending
        return self.link(sort=column.key, order="desc" if descending else "asc")

    def aria_sort(self, column: Column[Any]) -> str:
        """The value of `aria-sort`; empty if the table is not ordered by the column."""
        if column.key != self.sort:
            return ""
        return "descending" if self.descending else "ascending"


@define(frozen=True)
class TablePage(Generic[T]):
    """The rows of a table on one page."""

    query: TableQuery
    columns: Sequence[Column[T]]
    rows: list[T]
    matching: int
    """Entries that match search and filter."""
    total: int
    pages: int = field(default=1)
    per_page: int = field(default=PAGE_LIMIT)

    @property
    def first(self) -> int:
        """The number of the first row shown, from 1."""
        return (self.query.page - 1) * self.per_page + 1

    @property
    def last(self) -> int:
        """The number of the last row shown."""
        return self.first + len(self.rows) - 1


def read_table_query(
    path: str,
    params: Mapping[str, str],
    columns: Iterable[Column[Any]],
    *,
    sort: str,
    filters: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> TableQuery:
    """Validate the query of a page. Invalid values count as missing; `sort` is the default order."""
    by_key = {column.key: column for column in columns}
    chosen = params.get("sort", "")
    key = chosen if chosen in by_key else sort
    order = params.get("order", "") if chosen in by_key else ""
    descending = order == "desc" if order in ("asc", "desc") else by_key[key].starts_descending
    show = params.get("show", "")
    page = params.get("page", "")
    return TableQuery(
        path=path,
        search=params.get("q", "").strip()[:_MAX_SEARCH],
        sort=key,
        descending=descending,
        show=show if show in set(filters) else "",
        # Short ASCII digits only: int() accepts others too, and numbers of any length.
        page=max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        keep=tuple((name, params[name]) for name in keep if params.get(name)),
    )


def select_page(
    entries: Sequence[T],
    query: TableQuery,
    columns: Sequence[Column[T]],
    *,
    text: Callable[[T], str],
    matches: Callable[[T], bool] | None = None,
    per_page: int = PAGE_LIMIT,
) -> TablePage[T]:
    """Filter and order the entries, and cut out one page; one after the last is the last.

    Entries that are equal in the order keep the order in which they come.
    """
    words = query.search.lower()
    found: Sequence[T] = entries
    if words:
        found = [entry for entry in found if words in text(entry).lower()]
    if matches is not None:
        found = [entry for entry in found if matches(entry)]
    pages = max(1, -(-len(found) // per_page))
    page = min(query.page, pages)
    rows = _rows(found, query, columns, (page - 1) * per_page, per_page)
    return TablePage(evolve(query, page=page), columns, rows, len(found), len(entries), pages, per_page)


def _rows(
    found: Sequence[T], query: TableQuery, columns: Sequence[Column[T]], start: int, count: int
) -> list[T]:
    value = next(column.value for column in columns if column.key == query.sort)
    if start == 0 and len(found) > 4 * count:
        # The first page is by far the most frequent: the entries after it need not be sorted.
        best = heapq.nlargest if query.descending else heapq.nsmallest
        return best(count, found, key=value)
    return sorted(found, key=value, reverse=query.descending)[start : start + count]
