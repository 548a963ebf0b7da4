"""Search, order and paging of a table are in its address; any query gives a valid table."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from nsqadmin.pages.tables import PAGE_LIMIT, Column, TablePage, TableQuery, read_table_query, select_page


@frozen
class Item:
    name: str
    size: int


COLUMNS: tuple[Column[Item], ...] = (
    Column(key="name", title="Name", value=lambda each: each.name, numeric=False),
    Column(key="size", title="Size", value=lambda each: each.size),
)
ITEMS = [Item(f"item-{n:04}", n * 7919 % 1000) for n in range(1000)]


def choose(**params: str) -> TableQuery:
    return read_table_query("/x", params, COLUMNS, sort="name", filters=("big",), keep=("span",))


def show(**params: str) -> TablePage[Item]:
    return select_page(ITEMS, choose(**params), COLUMNS, text=lambda each: each.name)


def test_the_first_page_is_in_the_default_order() -> None:
    table = show()
    assert [each.name for each in table.rows] == [f"item-{n:04}" for n in range(PAGE_LIMIT)]
    assert (table.first, table.last, table.matching, table.pages) == (1, PAGE_LIMIT, 1000, 20)


def test_descending_order_shows_the_largest_first() -> None:
    table = show(sort="size", order="desc")
    assert [each.size for each in table.rows] == list(range(999, 999 - PAGE_LIMIT, -1))


def test_every_entry_is_on_exactly_one_page() -> None:
    seen = [each.name for page in range(1, 21) for each in show(sort="size", page=str(page)).rows]
    assert sorted(seen) == [each.name for each in ITEMS]


def test_equal_entries_keep_their_order_on_all_pages() -> None:
    same = [Item(f"n{n:03}", 5) for n in range(PAGE_LIMIT * 5)]
    for order in ("asc", "desc"):
        pages = [
            select_page(
                same, choose(sort="size", order=order, page=str(page)), COLUMNS, text=lambda each: each.name
            )
            for page in range(1, 6)
        ]
        assert [each for page in pages for each in page.rows] == same


def test_a_search_finds_parts_of_names_in_any_case() -> None:
    table = show(q="ITEM-099")
    assert [each.name for each in table.rows] == [f"item-099{n}" for n in range(10)]
    assert (table.matching, table.total) == (10, 1000)


def test_a_filter_leaves_out_what_does_not_fit() -> None:
    table = select_page(
        ITEMS, choose(show="big"), COLUMNS, text=lambda each: each.name, matches=lambda each: each.size > 989
    )
    assert table.matching == 10


def test_a_page_after_the_last_is_the_last() -> None:
    table = show(page="9999")
    assert table.query.page == 20
    assert table.rows[-1].name == "item-0999"


def test_an_empty_table_has_one_empty_page() -> None:
    table = select_page([], choose(page="3"), COLUMNS, text=lambda each: each.name)
    assert (table.rows, table.pages, table.query.page) == ([], 1, 1)


def test_links_keep_the_query_and_start_at_the_first_page() -> None:
    query = choose(q="a b", sort="size", order="asc", page="4", span="1h", show="big")
    assert query.link() == "/x?q=a+b&show=big&sort=size&order=asc&span=1h"
    assert query.link(page=5) == "/x?q=a+b&show=big&sort=size&order=asc&span=1h&page=5"
    assert query.link(q="", show="") == "/x?sort=size&order=asc&span=1h"


def test_a_click_on_a_head_reverses_the_order() -> None:
    name, size = COLUMNS
    assert "sort=size&order=desc" in choose().sort_link(size)
    assert "sort=name&order=desc" in choose().sort_link(name)
    assert "sort=size&order=asc" in choose(sort="size", order="desc").sort_link(size)
    assert choose(sort="size", order="desc").aria_sort(size) == "descending"
    assert choose(sort="size").aria_sort(name) == ""


@pytest.mark.parametrize("page", ["0", "-3", "x", "1e9", "99999999999", "\u0663", ""])
def test_an_invalid_page_number_is_the_first_page(page: str) -> None:
    assert choose(page=page).page == 1


@given(st.dictionaries(st.sampled_from(["q", "sort", "order", "page", "show", "span", "t"]), st.text()))
def test_any_query_gives_a_valid_table(params: dict[str, str]) -> None:
    table = select_page(ITEMS[:120], choose(**params), COLUMNS, text=lambda each: each.name)
    assert len(table.rows) <= PAGE_LIMIT
    assert table.query.sort in ("name", "size")
    assert table.query.show in ("", "big")
    assert len(table.query.search) <= 200
