"""/debug/...: that each page says what it is for, and what it takes."""

from __future__ import annotations

import gc
import sys

import attrs
import pytest

from nsqd.stats.memory import memory_stats, watch_gc
from nsqkit.service.http.profiling import Profiling

from .fake_daemon import FakeDaemon, serving

TEXT = "text/plain; charset=utf-8"


async def test_off_it_is_as_if_it_never_was() -> None:
    async with serving(FakeDaemon(debug_endpoints="off")) as client:
        for path in ("/debug/pprof/", "/debug/pprof", "/debug/pprof/heap", "/debug/freememory"):
            answer = await client.get(path)
            assert (answer.status, answer.text) == (404, '{"message":"NOT_FOUND"}')


async def test_index_links_to_every_page() -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/debug/pprof")
        assert (answer.status, answer.headers["Location"]) == (301, "/debug/pprof/")
        answer = await client.get("/debug/pprof/")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "X-Nsq-Content-Type" not in answer.headers
        for name in ("block", "cmdline", "goroutine", "heap", "profile", "symbol", "threadcreate"):
            assert f'href="{name}"' in answer.text


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("cmdline", "\0".join(sys.orig_argv)),
        ("heap", "heap_in_use_bytes: "),
        ("goroutine", "HttpServer"),
        ("threadcreate", "MainThread"),
        ("block", "not measured"),
        ("symbol", "num_symbols: 0"),
    ],
)
async def test_pages(page: str, words: str) -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.get(f"/debug/pprof/{page}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, TEXT)
    assert "X-Nsq-Content-Type" not in answer.headers
    assert words in answer.text


async def test_symbols_can_be_posted_for() -> None:
    async with serving(FakeDaemon()) as client:
        assert (await client.post("/debug/pprof/symbol", b"0x1+0x2")).status == 200


async def test_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsqkit.service.http.profiling._SAMPLE_EVERY_SECONDS", 0.001)
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/debug/pprof/profile?seconds=1")
    assert answer.status == 200
    for line in answer.text.splitlines():
        stack, _, count = line.rpartition(" ")
        assert int(count) > 0
        assert ".py:" in stack
    assert "trio" in answer.text


async def test_one_profile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Profiling, "_profiling", property(lambda _: True, lambda _, now: None), raising=False)
    async with serving(FakeDaemon()) as client:
        answer = await client.get("/debug/pprof/profile")
    assert answer.status == 500
    assert answer.text == "Could not enable CPU profiling: cpu profiling already in use\n"


@pytest.mark.parametrize("rate", ["0", "-1", "1000"])
async def test_block_rate(rate: str) -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.put(f"/debug/setblockrate?rate={rate}")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("query", ["", "?rate=", "?rate=abc", "?rate=1.5"])
async def test_bad_block_rates(query: str) -> None:
    async with serving(FakeDaemon()) as client:
        answer = await client.put(f"/debug/setblockrate{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (400, TEXT)
    assert answer.text.startswith("invalid block rate : ")


async def test_free_memory() -> None:
    before = gc.get_stats()[2]["collections"]
    async with serving(FakeDaemon()) as client:
        answer = await client.post("/debug/freememory")
    assert (answer.status, answer.body) == (200, b"")
    assert gc.get_stats()[2]["collections"] > before


def test_memory_figures() -> None:
    watch_gc()
    watch_gc()
    assert len([callback for callback in gc.callbacks if type(callback).__name__ == "_Pauses"]) == 1
    gc.collect()
    figures = attrs.asdict(memory_stats())
    assert all(type(value) is int and value >= 0 for value in figures.values())
    assert figures["heap_in_use_bytes"] > 1 << 20
    assert figures["heap_objects"] > 1000
    assert figures["gc_total_runs"] > 0
    assert figures["gc_pause_usec_100"] >= figures["gc_pause_usec_99"] >= figures["gc_pause_usec_95"]
    assert figures["gc_pause_usec_100"] > 0
