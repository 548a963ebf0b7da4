"""Requests that pages of other sites make a browser send: Host, Origin, the token of the console's pages."""

from __future__ import annotations

import pytest

from nsqadmin.options import AdminOptions
from nsqadmin.origins import TOKEN_HEADER, Origins
from nsqkit.service.http import HttpError
from nsqkit.service.listeners import BoundAddress
from tests.nsqadmin.asking import request
from tests.nsqadmin.pages.cluster import channel, fake_console, snapshot, topic
from tests.nsqadmin.pages.reading import fetch
from tests.nsqadmin.serving import serving
from tests.nsqadmin.test_site import DEAD

Header = tuple[bytes, bytes]

LOOPBACK = BoundAddress("127.0.0.1:4171", 4171)
EVERYWHERE = BoundAddress("[::]:4171", 4171)


def origins(*allowed_hosts: str, bound: BoundAddress = EVERYWHERE) -> Origins:
    made = Origins(AdminOptions(allowed_hosts=list(allowed_hosts)))
    made.listens_on([bound])
    return made


def status_of_host(checker: Origins, host: bytes) -> int:
    try:
        checker.check_host(request("1.1.1.1:1", (b"host", host)))
    except HttpError as error:
        return error.status
    return 200


class TestHost:
    @pytest.mark.parametrize("bound", [LOOPBACK, BoundAddress("[::1]:4171", 4171)])
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            (b"127.0.0.1:4171", 200),
            (b"[::1]:4171", 200),
            (b"192.0.2.1:4171", 200),
            (b"localhost:4171", 200),
            (b"LocalHost.:4171", 200),
            (b"nsq.localhost:4171", 200),
            (b"evil.example:4171", 403),
            (b"evil.example.:4171", 403),
            (b"EVIL.example:4171", 403),
            (b"localhost.evil.example:4171", 403),
            (b"127.0.0.1.evil.example:4171", 403),
            (b"evil.example:04171", 403),
            # Of a proxy: a browser that is connected to the console itself names its port.
            (b"console.example", 200),
            (b"console.example:8080", 200),
        ],
    )
    def test_on_a_loopback_address_a_direct_connection_must_name_it(
        self, bound: BoundAddress, host: bytes, status: int
    ) -> None:
        assert status_of_host(origins(bound=bound), host) == status

    @pytest.mark.parametrize("bound", [LOOPBACK, EVERYWHERE, BoundAddress("/run/admin.sock", -1)])
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            (b"console.example", 200),
            (b"console.example:8080", 200),
            (b"Console.Example:4171", 200),
            (b"other.example:8443", 200),
            (b"other.example:8080", 403),
            (b"other.example", 403),
            (b"evil.example", 403),
            (b"evil.example:4171", 403),
            (b"console.example.evil.example", 403),
            (b"", 403),
            (b"127.0.0.1:4171", 200),
            (b"localhost", 200),
        ],
    )
    def test_a_list_of_names_is_complete(self, bound: BoundAddress, host: bytes, status: int) -> None:
        checker = origins("console.example", "other.example:8443", bound=bound)
        assert status_of_host(checker, host) == status

    def test_the_name_of_the_machine_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("socket.gethostname", lambda: "Box7")
        assert status_of_host(origins(bound=LOOPBACK), b"box7:4171") == 200

    @pytest.mark.parametrize("bound", [EVERYWHERE, BoundAddress("10.0.0.1:4171", 4171)])
    def test_other_addresses_without_a_list_have_any_name(self, bound: BoundAddress) -> None:
        assert status_of_host(origins(bound=bound), b"any.example:4171") == 200

    def test_a_request_without_a_host_is_not_of_a_browser(self) -> None:
        origins("console.example", bound=LOOPBACK).check_host(request())

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("GET", "/live"),
            ("GET", "/api/topics"),
            ("GET", "/nothing"),
            ("POST", "/api/topics"),
            ("DELETE", "/api/topics/t"),
            ("PUT", "/config/log_level"),
        ],
    )
    async def test_every_path_is_refused(self, method: str, path: str) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            port = browser.address.rpartition(":")[2]
            headers = {"Host": f"evil.example:{port}", "Sec-Fetch-Site": "same-origin"}
            response = await browser.ask(method, path, b"info", headers)
        assert (response.status_code, response.json()) == (403, {"message": "HOST_NOT_ALLOWED"})


def same_site(checker: Origins, *headers: Header) -> bool:
    try:
        checker.check_same_site(request("1.1.1.1:1", *headers))
    except HttpError as error:
        return (error.status, error.code) != (403, "FORBIDDEN")
    return True


class TestOtherSites:
    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"sec-fetch-site", b"same-origin"), (b"origin", b"null")],
            [(b"sec-fetch-site", b"none")],
            [(b"host", b"console:4171"), (b"origin", b"http://Console:4171")],
        ],
    )
    def test_requests_of_the_same_site_and_of_scripts_are_accepted(self, headers: list[Header]) -> None:
        assert same_site(origins(), *headers)

    @pytest.mark.parametrize(
        "headers",
        [
            [(b"sec-fetch-site", b"cross-site")],
            [(b"sec-fetch-site", b"same-site")],
            [(b"sec-fetch-site", b"")],
            [(b"host", b"console"), (b"origin", b"null")],
            [(b"host", b"console"), (b"origin", b"http://console.evil.example")],
            [(b"host", b"console:4171"), (b"origin", b"http://console:80")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (b"x-forwarded-host", b"evil")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (b"forwarded", b"host=evil")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (b"referer", b"http://console/")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (TOKEN_HEADER, b"")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (TOKEN_HEADER, b"guess")],
            [(b"host", b"console"), (b"origin", b"http://evil"), (TOKEN_HEADER, b"\xff")],
            [(b"origin", b"http://")],
            [(b"host", b"c"), (b"origin", b"http://\xff")],
        ],
    )
    def test_requests_of_other_sites_are_refused(self, headers: list[Header]) -> None:
        assert not same_site(origins(), *headers)

    @pytest.mark.parametrize("origin", [b"http://console.example:8080", b"https://console.example", b"null"])
    def test_the_token_of_the_pages_is_accepted_whatever_host_a_proxy_sends(self, origin: bytes) -> None:
        checker = origins()
        token = (TOKEN_HEADER, checker.token.encode())
        for host in (b"127.0.0.1:4171", b"console.example", b"backend"):
            assert same_site(checker, (b"host", host), (b"origin", origin), token)

    def test_a_token_does_not_outweigh_what_the_browser_says(self) -> None:
        checker = origins()
        token = (TOKEN_HEADER, checker.token.encode())
        assert not same_site(checker, (b"sec-fetch-site", b"cross-site"), token)

    @pytest.mark.parametrize(
        ("origin", "accepted"),
        [
            (b"http://console.example", True),
            (b"https://console.example:8080", True),
            (b"https://other.example", True),
            (b"http://other.example", False),
            (b"https://other.example:8443", False),
            (b"https://evil.example", False),
        ],
    )
    def test_a_listed_name_is_the_origin_of_the_console(self, origin: bytes, accepted: bool) -> None:
        checker = origins("console.example", "other.example:443")
        assert same_site(checker, (b"host", b"127.0.0.1:4171"), (b"origin", origin)) is accepted


class TestToken:
    async def test_pages_have_the_token_for_administrators_only(self) -> None:
        console = fake_console(snapshot(topic("a", [channel("a", "b")])), admin_users=["ann"])
        for user, token in (("ann", console.origins.token), ("eve", None)):
            page = await fetch(console, "/topics/a", headers={"X-Forwarded-User": user})
            assert page.one("main").attributes.get("data-token") == token

    async def test_tokens_differ(self) -> None:
        assert len({origins().token for _ in range(10)}) == 10
        assert all(len(origins().token) >= 32 for _ in range(3))

    async def test_a_change_needs_the_token_when_the_proxy_hides_the_name(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            headers = {"Origin": "http://console.example"}
            refused = await browser.ask("POST", "/api/topics", {"topic": "t"}, headers)
            token = {**headers, "X-Console-Token": browser.console.origins.token}
            accepted = await browser.ask("POST", "/api/topics", {"topic": "t"}, token)
        assert (refused.status_code, accepted.status_code) == (403, 200)
