"""Access control: administrators, and clients of /config."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nsqadmin.access import check_config_client, is_admin
from nsqadmin.options import AdminOptions
from nsqkit.service.http import HttpError, Request, Route, text

USER = b"x-forwarded-user"


def request(remote: str = "127.0.0.1:5", *headers: tuple[bytes, bytes]) -> Request:
    route = Route(handler=lambda _: text(""))
    return Request("POST", b"/x", "/x", b"", list(headers), "1.1", remote, False, True, {}, route)


class TestAdministrators:
    def test_without_a_list_every_user_is_an_administrator(self) -> None:
        assert is_admin(AdminOptions(), [])
        assert is_admin(AdminOptions(), [(USER, b"eve")])

    def test_with_a_list_the_header_must_name_an_administrator(self) -> None:
        options = AdminOptions(admin_users=["ann", "zoé"])
        assert is_admin(options, [(b"host", b"x"), (USER, b"ann")])
        assert is_admin(options, [(USER, "zoé".encode())])
        for headers in ([], [(USER, b"")], [(USER, b"Ann")], [(USER, b"ann ")], [(b"user", b"ann")]):
            assert not is_admin(options, headers)

    def test_the_name_of_the_header_is_an_option(self) -> None:
        options = AdminOptions(admin_users=["ann"], acl_http_header="X-Who")
        assert is_admin(options, [(b"x-who", b"ann")])
        assert not is_admin(options, [(USER, b"ann")])

    def test_an_empty_user_is_no_administrator(self) -> None:
        assert not is_admin(AdminOptions(admin_users=["ann"]), [(USER, b"")])

    def test_a_request_with_two_such_headers_has_no_user(self) -> None:
        assert not is_admin(AdminOptions(admin_users=["ann"]), [(USER, b"eve"), (USER, b"ann")])
        assert not is_admin(AdminOptions(admin_users=["ann"]), [(USER, b"ann"), (USER, b"ann")])


class TestConfigClients:
    def status(
        self, remote: str, cidr: str, *headers: tuple[bytes, bytes], admin_users: Sequence[str] = ()
    ) -> int:
        options = AdminOptions(allow_config_from_cidr=cidr, admin_users=list(admin_users))
        try:
            check_config_client(options, request(remote, *headers))
        except HttpError as error:
            return error.status
        return 200

    @pytest.mark.parametrize(
        ("remote", "cidr", "status"),
        [
            ("127.0.0.1:1", "127.0.0.1/8", 200),
            ("127.9.9.9:1", "127.0.0.1/8", 200),
            ("10.0.0.1:1", "127.0.0.1/8", 403),
            ("10.0.0.1:1", "", 200),
            ("[::1]:1", "127.0.0.1/8", 403),
            ("[::1]:1", "::1/128", 200),
            ("@", "127.0.0.1/8", 400),
            ("@", "", 200),
        ],
    )
    def test_the_address_of_a_client_decides(self, remote: str, cidr: str, status: int) -> None:
        assert self.status(remote, cidr) == status

    @pytest.mark.parametrize("cidr", ["", "127.0.0.1/8"])
    def test_with_a_list_only_administrators_may(self, cidr: str) -> None:
        for headers, status in (([(USER, b"ann")], 200), ([(USER, b"eve")], 403), ([], 403)):
            assert self.status("127.0.0.1:1", cidr, *headers, admin_users=["ann"]) == status

    def test_an_administrator_of_another_network_is_refused(self) -> None:
        assert self.status("10.0.0.1:1", "127.0.0.1/8", (USER, b"ann"), admin_users=["ann"]) == 403

    @pytest.mark.parametrize(
        ("forwarded", "status"),
        [
            ([b"127.0.0.1"], 200),
            ([b"127.0.0.1, 127.0.0.2"], 200),
            ([b"203.0.113.9"], 403),
            ([b"127.0.0.1, 203.0.113.9"], 403),
            ([b"203.0.113.9,127.0.0.1"], 403),
            ([b"127.0.0.1", b"203.0.113.9"], 403),
            ([b"unknown"], 403),
            ([b"\xff"], 403),
        ],
    )
    def test_an_address_behind_a_proxy_must_be_in_the_network(
        self, forwarded: list[bytes], status: int
    ) -> None:
        headers = [(b"x-forwarded-for", each) for each in forwarded]
        assert self.status("127.0.0.1:1", "127.0.0.1/8", *headers) == status
        assert self.status("127.0.0.1:1", "", *headers) == 200
        assert self.status("203.0.113.9:1", "127.0.0.1/8", *headers) == 403
