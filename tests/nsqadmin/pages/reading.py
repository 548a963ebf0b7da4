"""Pages fetched from the console's handlers, without a socket, and read as browsers do: elements, attributes, text.

page = await fetch(console, "/topics/orders")
assert page.one("h1").text == "orders"
assert [cell.text for cell in page.all("tbody", "td")] == [...]
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any, cast

import attrs
import httpx

from nsqadmin.console import Console
from nsqadmin.site import Site
from nsqkit.service.http import HttpError, Request, Response, error
from nsqkit.service.http.message import decode_path

__all__ = ["Element", "HtmlPage", "ask", "fetch", "respond"]

VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"))


@attrs.define(eq=False)
class Element:
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = attrs.field(factory=list)

    @property
    def text(self) -> str:
        """All text in it, white space made single."""
        return " ".join(" ".join(self._texts()).split())

    def __getitem__(self, name: str) -> str:
        """Give an attribute; KeyError when it has none of this name."""
        return self.attributes[name]

    def walk(self) -> Iterator[Element]:
        """Give it and everything in it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, *tags: str, **attributes: str) -> list[Element]:
        """Give the elements of the last tag inside of those before it; `class_` is one of its classes."""
        if not tags:
            return [each for each in self.walk() if each.fits("", attributes)]
        *outer, inner = tags
        places = self.all(outer[-1]) if outer else [self]
        found: dict[int, Element] = {}
        for place in places:
            found |= {id(each): each for each in place.walk() if each.fits(inner, attributes)}
        return list(found.values())

    def one(self, *tags: str, **attributes: str) -> Element:
        """Give the only such element."""
        found = self.all(*tags, **attributes)
        assert len(found) == 1, f"{len(found)} of {tags} {attributes}"
        return found[0]

    def fits(self, tag: str, attributes: Mapping[str, str]) -> bool:
        """Whether it is such an element."""
        if tag not in ("", self.tag):
            return False
        for name, value in attributes.items():
            if name == "class_":
                if value not in self.attributes.get("class", "").split():
                    return False
            elif self.attributes.get(name.replace("_", "-")) != value:
                return False
        return True

    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Give tags and attributes' names in order: what must not depend on a name that the page shows."""
        return [(each.tag, tuple(each.attributes)) for each in self.walk()]

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._texts()


class HtmlPage(Element):
    """A whole page, and the response that it came in."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__("page", {})
        self.response = response
        parser = _Builder(self)
        parser.feed(response.text)
        parser.close()
        assert parser.open == [self], f"not closed: {[each.tag for each in parser.open[1:]]}"

    @property
    def headers(self) -> httpx.Headers:
        """Those of the response."""
        return self.response.headers

    def rows(self, caption: str) -> list[list[str]]:
        """Give the cells' texts of the body rows of the table whose caption contains this."""
        for table in self.all("table"):
            if caption in table.one("caption").text:
                bodies = table.all("tbody", "tr")
                return [[cell.text for cell in row.walk() if cell.tag in ("th", "td")] for row in bodies]
        raise AssertionError(f"no table of {caption!r}")


class _Builder(HTMLParser):
    def __init__(self, root: Element) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [root]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        if tag == "wbr":
            return  # no text: where a name may be broken
        element = Element(tag, {name: value or "" for name, value in attributes})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        siblings = self.open[-1].children
        if siblings and isinstance(siblings[-1], str):
            siblings[-1] += data
        else:
            siblings.append(data)


async def ask(
    site: Site,
    method: str,
    target: bytes,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: bytes = b"",
) -> Response:
    """Call the handler of a path directly, and make the pieces of its response. Only an `HttpError` is a response."""
    raw_path, _, query = target.partition(b"?")
    path = decode_path(raw_path)
    assert path is not None
    route, params = site.route(method, raw_path, path, query)
    names = [(name.lower(), value) for name, value in headers]
    remote = "192.0.2.1:50312"
    request = Request(method, target, path, query, names, "1.1", remote, False, True, params, route, body)
    try:
        answer = route.handler(request)
        response = await answer if inspect.isawaitable(answer) else answer
    except HttpError as refused:
        return error(refused.status, refused.code)
    if response.pieces is None:
        return response
    return attrs.evolve(response, body=b"".join(response.pieces), pieces=None)


@attrs.frozen
class _Handlers(httpx.AsyncBaseTransport):
    """Calls the handlers of a site."""

    site: Site

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await ask(self.site, request.method, request.url.raw_path, headers=request.headers.raw)
        sent = list(response.headers)
        if response.content_type is not None:
            sent.append((b"Content-Type", response.content_type))
        if response.nsq:
            sent.append((b"X-Nsq-Content-Type", b"nsq; version=1.0"))
        return httpx.Response(response.status, headers=sent, content=response.body)


async def respond(
    console: Console, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Make one request of a fresh site for this console; the target is given without the base path."""
    path, mark, query = target.partition("?")
    url = console.url(path) + mark + query
    headers = {"Accept-Encoding": "identity", **(headers or {})}
    transport = _Handlers(Site(console, cast(Any, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
        return await client.request(method, url, headers=headers)


async def fetch(
    console: Console, target: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> HtmlPage:
    """Fetch one page; another status is an error, and so is markup that does not nest."""
    response = await respond(console, target, headers=headers)
    assert response.status_code == status, (response.status_code, response.text[:200])
    return HtmlPage(response)
