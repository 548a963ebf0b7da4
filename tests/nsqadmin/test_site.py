"""The paths of the console: base path, files, compression, /config, /ping."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from pathlib import Path

import pytest
import trio

from nsqkit.logging import LogLevel, set_level
from tests.nsqadmin.scripted import dead_address, scripted
from tests.nsqadmin.serving import Browser, serving

DEAD = dead_address()
PAGES = (
    "/",
    "/topics",
    "/topics/:topic",
    "/topics/:topic/:channel",
    "/messages/:topic/:channel",
    "/nodes",
    "/nodes/:node",
    "/counter",
    "/lookup",
    "/series",
    "/live",
)


class TestBasePath:
    async def test_all_paths_are_below_the_base_path(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": ["a"]})
            async with serving(lookupds=[registry.address], base_path="adm/") as browser:
                for path in ("/adm", "/adm/topics", "/adm/ping", "/adm/api/topics", "/adm/config/base_path"):
                    assert (await browser.get(path)).status_code == 200, path
                assert (await browser.get("/adm/static/console.css")).status_code == 200
                for path in ("/", "/topics", "/ping", "/api/topics", "/static/console.css", "/admin", "/ad"):
                    assert (await browser.get(path)).status_code == 404, path
                assert (await browser.get("/adm/config/base_path")).text == "/adm"

    async def test_a_trailing_slash_is_redirected(self) -> None:
        async with serving(nsqds=[DEAD], base_path="/adm") as browser:
            for path, right in (
                ("/adm/ping/", "/adm/ping"),
                ("/adm/topics/", "/adm/topics"),
            ):
                response = await browser.get(path)
                assert (response.status_code, response.headers["location"]) == (301, right)

    @pytest.mark.parametrize("path", PAGES)
    async def test_every_page_redirects_wrong_slashes_and_case_and_refuses_other_methods(
        self, path: str
    ) -> None:
        right = "/adm" + path.replace(":", "x").rstrip("/")
        async with serving(nsqds=[DEAD], base_path="/adm") as browser:
            wrong = await browser.ask("POST", right)
            slash = await browser.get(f"{right}//?q=1")
            letters = await browser.get(right.replace("/adm", "/ADM"))
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (slash.status_code, slash.headers["location"]) == (
            301,
            "/adm/?q=1" if path == "/" else f"{right}?q=1",
        )
        assert (letters.status_code, letters.headers["location"]) == (301, right)

    async def test_the_front_page_may_have_a_slash(self) -> None:
        async with serving(nsqds=[DEAD], base_path="/adm") as browser:
            for method in ("GET", "HEAD"):
                assert (await browser.ask(method, "/adm/?q=1")).status_code == 200
            page = await browser.get("/adm/")
        assert 'href="/adm/nodes"' in page.text
        assert 'href="/adm//' not in page.text

    @pytest.mark.parametrize(
        "path", [*PAGES, "/ping", "/static/console.css", "/config/log_level", "/api/topics"]
    )
    async def test_head_is_get_without_the_body(self, path: str) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": ["a"]})
            async with serving(lookupds=[registry.address]) as browser:
                head = await browser.ask("HEAD", path.replace(":", "x"))
                slash = await browser.ask("HEAD", "/topics/")
                again = await browser.ask("HEAD", path.replace(":", "x"))  # the connection is still in step
                if path != "/live":
                    get = await browser.get(path.replace(":", "x"))
                    assert get.status_code == head.status_code
                    assert get.headers["content-type"] == head.headers["content-type"]
        assert (head.status_code, head.content) == (again.status_code, b"") == (200, b"")
        assert (slash.status_code, slash.headers["location"]) == (301, "/topics")

    async def test_ping_says_ok(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            response = await browser.get("/ping")
        assert (response.status_code, response.text) == (200, "OK")
        assert "x-nsq-content-type" not in response.headers


class TestFiles:
    async def test_files_have_a_type_and_an_etag_and_are_cached_by_version(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            first = await browser.get("/static/console.css")
            again = await browser.get("/fonts/console.css", **{"If-None-Match": first.headers["etag"]})
            lasting = await browser.get("/static/console.css?v=1")
        assert first.headers["content-type"] == "text/css; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["x-content-type-options"] == "nosniff"
        assert (again.status_code, again.content) == (304, b"")
        assert "immutable" in lasting.headers["cache-control"]

    @pytest.mark.parametrize("name", ["none.css", "..%2Foptions.py", ".hidden", "a%00b"])
    async def test_other_paths_are_not_found(self, name: str) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            response = await browser.get(f"/static/{name}")
        assert response.status_code == 404
        if "%2F" not in name:
            assert response.text == "NOT_FOUND"

    async def test_files_of_the_dev_folder_are_read_each_time(self, tmp_path: Path) -> None:
        file = tmp_path / "x.map"
        file.write_text("{}")
        async with serving(nsqds=[DEAD], dev_static_dir=str(tmp_path)) as browser:
            first = await browser.get("/static/x.map?v=1")
            file.write_text("{} ")
            second = await browser.get("/static/x.map?v=1")
        assert first.headers["content-type"] == "application/json"
        assert first.headers["cache-control"] == "no-cache"
        assert (first.text, second.text) == ("{}", "{} ")


class TestCompression:
    @pytest.mark.parametrize(
        ("accepted", "coding"),
        [
            ("gzip;q=0, deflate", "deflate"),
            ("gzip; q=0.000,deflate;q=0.1", "deflate"),
            ("deflate;q=0", None),
            ("gzip;q=0.01", "gzip"),
        ],
    )
    async def test_a_coding_of_weight_0_is_not_used(self, accepted: str, coding: str | None) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            response = await browser.ask("GET", "/ping", headers={"Accept-Encoding": accepted})
        assert response.headers.get("content-encoding") == coding

    @pytest.mark.parametrize(
        "path", ["/", "/ping", "/api/topics", "/none", "/api/none", "/static/console.css"]
    )
    async def test_every_response_is_compressed_as_the_client_accepts(self, path: str) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": [f"topic{number}" for number in range(20_000)]})
            async with serving(lookupds=[registry.address]) as browser:
                plain = await browser.get(path)
                request = browser.client.build_request(
                    "GET",
                    f"http://{browser.address}{path}",
                    headers={"Accept-Encoding": "br, gzip;q=0.1, deflate"},
                )
                response = await browser.client.send(request, stream=True)
                body = b"".join([piece async for piece in response.aiter_raw()])
        assert "content-encoding" not in plain.headers
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["vary"] == "Accept-Encoding"
        assert response.headers["content-type"] == plain.headers["content-type"]
        assert int(response.headers["content-length"]) == len(body)
        unpacked = gzip.decompress(body)
        assert unpacked == plain.content or path == "/"  # pages carry a nonce each

    async def test_deflate_is_a_raw_stream(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            request = browser.client.build_request(
                "GET", f"http://{browser.address}/ping", headers={"Accept-Encoding": "deflate, gzip"}
            )
            response = await browser.client.send(request, stream=True)
            body = b"".join([piece async for piece in response.aiter_raw()])
        assert response.headers["content-encoding"] == "deflate"
        assert zlib.decompress(body, -15) == b"OK"

    async def test_a_stream_is_sent_as_it_is(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            host, _, port = browser.address.partition(":")
            wire = b""
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")
                while not wire.endswith(b"\n\n\r\n"):
                    wire += await stream.receive_some()
        head, _, body = wire.partition(b"\r\n\r\n")
        assert body == b"d\r\nretry: 3000\n\n\r\n"
        assert b"HTTP/1.1 200 OK" in head
        assert b"Content-Type: text/event-stream; charset=utf-8" in head
        assert b"Cache-Control: no-store" in head
        assert b"Content-Encoding" not in head

    async def test_a_response_without_a_body_is_not_compressed(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            response = await browser.ask("OPTIONS", "/ping", headers={"Accept-Encoding": "gzip"})
        assert (response.status_code, response.headers["content-length"]) == (200, "0")
        assert "content-encoding" not in response.headers


class TestConfig:
    """GET and PUT /config/:opt."""

    async def test_options_have_the_names_of_the_configuration_file(self) -> None:
        async with serving(nsqds=[DEAD], statsd_prefix="p.%s") as browser:
            assert (await browser.get("/config/statsd_prefix")).text == "p.%s"
            assert await browser.json("/config/nsqd_http_addresses") == [DEAD]
            assert await browser.json("/config/statsd_interval") == 60_000_000_000
            assert await browser.json("/config/proxy_graphite") is False
            for unknown in ("none", "version", "config", "verbose", "lookupd_http_addresses"):
                response = await browser.get(f"/config/{unknown}")
                assert (response.status_code, response.text) == (400, '{"message":"INVALID_OPTION"}')

    async def test_the_registries_can_be_changed_at_run_time(self) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/topics", {"topics": ["a"]})
            async with serving(lookupds=[DEAD]) as browser:
                response = await browser.ask("PUT", "/config/nsqlookupd_http_addresses", [registry.address])
                assert response.json() == [registry.address]
                assert (await browser.json("/api/topics"))["topics"] == ["a"]

    async def test_the_log_level_can_be_changed_at_run_time(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            try:
                response = await browser.ask("PUT", "/config/log_level", b"Error")
                assert response.json() == 4
                assert await browser.json("/config/log_level") == 4
                assert logging.getLogger("nsq").level == logging.ERROR
            finally:
                set_level(LogLevel.INFO)

    @pytest.mark.parametrize(
        ("name", "body", "status", "code"),
        [
            ("log_level", b"loud", 400, "INVALID_VALUE"),
            ("log_level", b"", 413, "INVALID_VALUE"),
            ("log_level", b"x" * (1024 * 1024 + 1), 413, "INVALID_VALUE"),
            ("nsqlookupd_http_addresses", b"{}", 400, "INVALID_VALUE"),
            ("nsqlookupd_http_addresses", b'["http://a:1"]', 400, "INVALID_VALUE"),
            ("statsd_prefix", b"x", 400, "INVALID_OPTION"),
            ("none", b"x", 400, "INVALID_OPTION"),
        ],
    )
    async def test_invalid_changes_are_refused(self, name: str, body: bytes, status: int, code: str) -> None:
        async with serving(lookupds=[DEAD]) as browser:
            response = await browser.ask("PUT", f"/config/{name}", body)
            kept = await browser.json("/config/nsqlookupd_http_addresses")
        assert (response.status_code, response.text) == (
            status,
            json.dumps({"message": code}).replace(" ", ""),
        )
        assert kept == [DEAD]

    async def test_clients_of_other_networks_and_sites_are_refused(self) -> None:
        async with serving(nsqds=[DEAD], allow_config_from_cidr="10.0.0.0/8") as browser:
            for response in (
                await browser.get("/config/log_level"),
                await browser.ask("PUT", "/config/log_level", b"info"),
                await browser.ask("PUT", "/config/log_level", b"x" * (1024 * 1024 + 1)),
            ):
                assert (response.status_code, response.text) == (403, '{"message":"FORBIDDEN"}')
        async with serving(nsqds=[DEAD]) as browser:
            headers = {"Sec-Fetch-Site": "cross-site"}
            response = await browser.ask("PUT", "/config/log_level", b"info", headers)
            assert response.status_code == 403

    async def test_other_paths_and_methods_of_config_are_refused(self) -> None:
        async with serving(nsqds=[DEAD]) as browser:
            assert (await browser.get("/config")).status_code == 404
            assert (await browser.get("/config/")).status_code == 404
            response = await browser.ask("POST", "/config/log_level", b"info")
            assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS, PUT")


NOT_NORMAL = (
    "/api/topics/orders/",
    "/api/topics/orders//",
    "/api/topics//orders",
    "//api/topics/orders",
    "/api/topics/orders/.",
    "/api/topics/orders/..",
    "/api/topics/orders/%2e",
    "/api/topics/orders/%2E%2e",
    "/api/topics/orders%2F",
    "/api/topics/orders/c/..",
    "/api/topics/./orders",
    "/api/topics/x/../orders",
    "/api/topics/",
    "/api/nodes/127.0.0.1:1/",
    "/config/log_level/",
)


class TestNormalPaths:
    """An object is never another one."""

    @pytest.mark.parametrize("path", NOT_NORMAL)
    @pytest.mark.parametrize("base_path", ["/", "/adm"])
    async def test_a_change_whose_path_another_program_would_rewrite_is_not_found(
        self, base_path: str, path: str
    ) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            url = base_path.rstrip("/") + path
            async with serving(lookupds=[registry.address], base_path=base_path) as browser:
                answers = [await raw_request(browser, method, url) for method in ("DELETE", "POST", "PUT")]
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
            assert b"location" not in answer.lower()
        assert script.calls == []

    @pytest.mark.parametrize("name", [".", ".."])
    async def test_names_of_dots_are_written_with_a_tilde(self, name: str) -> None:
        async with scripted() as script:
            registry = await script.daemon()
            registry.on("/lookup", {"channels": [], "producers": []})
            registry.on("/channel/delete")
            async with serving(lookupds=[registry.address]) as browser:
                response = await browser.ask("DELETE", f"/api/topics/orders/~{name}")
        assert response.status_code == 200
        assert script.changes() == [f"POST {registry.address}/channel/delete?topic=orders&channel={name}"]


async def raw_request(browser: Browser, method: str, target: str) -> bytes:
    """The response to a request whose target is sent as it is: libraries put paths into their normal form."""
    host, _, port = browser.address.partition(":")
    wire = b""
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        head = f"{method} {target} HTTP/1.1\r\nHost: {browser.address}\r\nConnection: close\r\n"
        await stream.send_all(f"{head}Content-Length: 18\r\n\r\n".encode() + b'{"action":"pause"}')
        async for piece in stream:
            wire += piece
    return wire
