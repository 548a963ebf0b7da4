"""Requests that are refused whatever the client may do: other sites make a browser send them, or for other hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqkit.access import NOTHING, Access, Need, Scopes
from nsqkit.service.http import ByteBudget, Guard, Limits, Request, Response, Route, Router, text
from nsqkit.service.http.parser import RequestParser
from tests.nsqkit.access.walk import refusal_of

NEEDS = {
    ("GET", "/a"): Need.READ,
    ("POST", "/a"): Need.OPERATE,
    ("PUT", "/a"): Need.ADMIN,
    ("DELETE", "/a"): Need.OPEN,
}


def router_with(guard: Guard) -> Router:
    router = Router(guard=guard)
    for method, path in guard.needs:
        router.add(method, path, lambda _: text("OK"))
    return router


def refused(guard: Guard, method: str, headers: str) -> str:
    """Status and code; empty if it is not refused."""
    refusal = refusal_of(router_with(guard), method, "/a", headers)
    return "" if refusal is None else f"{refusal.status} {refusal.body.decode()[12:-2]}"


@pytest.mark.parametrize(
    "headers",
    [
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site\r\nOrigin: http://127.0.0.1:4151",
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: ",
        "Origin: http://[",
        "Origin: http://127.0.0.1:8000",
        "Origin: http://127.0.0.1",
        "Origin: http://\xe9",
        "oRIGIN: https://evil.example\r\nSec-Fetch-Site: same-origin",
    ],
)
def test_a_change_that_a_page_of_another_site_asks_for(headers: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert refused(Guard(NEEDS), method, f"{headers}\r\n") == "403 CROSS_SITE"
    assert refused(Guard(NEEDS), "GET", f"{headers}\r\n") == ""


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Sec-Fetch-Site: none\r\n",
        "Sec-Fetch-Site: same-origin\r\nOrigin: http://127.0.0.1:4151\r\n",
        "Origin: https://127.0.0.1:4151\r\n",
        "Origin: https://nsq.example\r\n",
        "Origin: https://ops.example:8443\r\n",
    ],
)
def test_a_change_that_no_other_site_asks_for(headers: str) -> None:
    guard = Guard(NEEDS, allowed_hosts=["NSQ.example", "ops.example:8443"])
    assert refused(guard, "POST", headers) == ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4151"])
def test_a_page_whose_own_name_has_the_address_of_the_daemon(host: str) -> None:
    """DNS rebinding: for the browser it is one site."""
    headers = f"Origin: http://{host}\r\nSec-Fetch-Site: same-origin\r\n"
    assert refusal_by_host(Guard(NEEDS), "POST", host, headers) == 403
    assert refusal_by_host(Guard(NEEDS, name="Evil.example"), "POST", host, headers) is None


def refusal_by_host(guard: Guard, method: str, host: str, headers: str = "") -> int | None:
    """The status of a request whose head has this `Host`."""
    parser = RequestParser(router_with(guard), Limits(), ByteBudget(), "10.0.0.7:5000")
    parser.feed(f"{method} /a HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
    response = parser.ready[0].route.handler(parser.ready[0])
    assert isinstance(response, Response)
    return None if response.status == 200 else response.status


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("nsq.example", True),
        ("nsq.example:99", True),
        ("NSQ.EXAMPLE.", True),
        ("ops.example:8443", True),
        ("broadcast.example:4151", True),
        ("127.0.0.1:4151", True),
        ("[::1]:4151", True),
        ("localhost", True),
        ("a.localhost:1", True),
        ("", True),
        ("ops.example", False),
        ("evil.example", False),
        ("nsq.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_the_hosts_that_are_allowed(host: str, allowed: bool) -> None:
    guard = Guard(
        NEEDS, allowed_hosts=["a.example", "nsq.example, ops.example:8443"], name="broadcast.example"
    )
    for method in ("GET", "POST"):
        assert refusal_by_host(guard, method, host) == (None if allowed else 403)
    assert refusal_by_host(Guard(NEEDS), "GET", host) is None


def test_no_token_makes_up_for_another_site() -> None:
    guard = Guard(NEEDS, Access(NOTHING))
    assert refused(guard, "POST", "Origin: https://evil.example\r\n") == "403 CROSS_SITE"
    assert refused(guard, "DELETE", "Origin: https://evil.example\r\n") == "403 CROSS_SITE"


def test_a_refusal_asks_for_a_token() -> None:
    refusal = refusal_of(router_with(Guard(NEEDS, Access(NOTHING))), "GET", "/a")
    assert refusal is not None
    challenges = [value for name, value in refusal.headers if name == b"WWW-Authenticate"]
    assert challenges == [b'Bearer realm="nsq"', b'Basic realm="nsq"']


def test_a_malformed_query_is_the_error_that_it_always_was() -> None:
    router = router_with(Guard({("POST", "/p"): Need.PUBLISH}, Access(Scopes.parse(["publish:a"]))))
    refusal = refusal_of(router, "POST", "/p?topic=%zz")
    assert refusal is not None
    assert (refusal.status, refusal.body) == (400, b'{"message":"INVALID_REQUEST"}')


def test_a_route_that_is_not_in_the_table_cannot_be_added() -> None:
    router = Router(guard=Guard(NEEDS))
    for method, path in (("GET", "/b"), ("PATCH", "/a")):
        with pytest.raises(ValueError, match=f"{method} {path} is not in the table of what requests need"):
            router.add(method, path, lambda _: text("OK"))
    assert not list(router.routes())


def test_a_route_that_is_never_refused_costs_nothing() -> None:
    assert Guard(NEEDS).check_of("GET", "/a") is None
    assert Guard(NEEDS, allowed_hosts=["a"]).check_of("GET", "/a") is not None
    assert Guard(NEEDS, Access(NOTHING)).check_of("GET", "/a") is not None


def test_refusals_are_logged_without_what_they_carry(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(NEEDS, Access(NOTHING))
    assert refused(guard, "GET", "Authorization: Bearer nsq_secret\r\n") == "401 TOKEN_INVALID"
    (record,) = caplog.records
    assert record.getMessage() == "ACCESS: refused GET /a of 10.0.0.7:5000: token invalid"
    for _ in range(1000):
        refused(guard, "GET", "")
    assert len(caplog.records) < 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"host", b"origin", b"sec-fetch-site", b"authorization"]),
            st.one_of(
                st.binary(max_size=40),
                st.text("htps:/[].@%a1 =", max_size=40).map(str.encode),
                st.text("htps:/[].@%a1 =", max_size=20).map(lambda text: b"http://" + text.encode()),
                st.text("aA+/=:", max_size=20).map(lambda text: b"Basic " + text.encode()),
            ),
        ),
        max_size=5,
    )
)
def test_whatever_the_headers_are_there_is_an_answer(headers: list[tuple[bytes, bytes]]) -> None:
    guard = Guard(NEEDS, Access(Scopes.parse(["read"])), allowed_hosts=["nsq.example"])
    request = Request(
        "POST", b"/a", "/a", b"", headers, "1.1", "@", False, True, {}, Route(handler=lambda _: text("OK"))
    )
    for method in ("GET", "POST", "PUT", "DELETE"):
        check = guard.check_of(method, "/a")
        assert check is not None
        refusal = check(request)
        assert refusal is None or refusal.status in (400, 401, 403)


def test_more_than_one_authorization_is_refused() -> None:
    """Else one part could take the first one, and another part the last."""
    guard = Guard(NEEDS, Access(NOTHING))
    check = guard.check_of("GET", "/a")
    assert check is not None
    headers = [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    request = Request(
        "GET", b"/a", "/a", b"", headers, "1.1", "@", False, True, {}, Route(handler=lambda _: text("OK"))
    )
    refusal = check(request)
    assert refusal is not None
    assert refusal.status == 400


def test_an_empty_name_is_no_allowed_host() -> None:
    assert Guard(NEEDS, allowed_hosts=["nsq.example,", " "]).allowed_hosts == ["nsq.example"]
