"""Metrics as text: what Prometheus' own parser reads is what was written, and nobody waits meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from nsqkit.service.exposition import (
    CHUNK,
    CONTENT_TYPE,
    Family,
    Histogram,
    Sample,
    counter,
    gauge,
    label_set,
    program,
    render,
)


async def page(*families: Family) -> str:
    response = await render(families)
    assert (response.status, response.content_type) == (200, CONTENT_TYPE)
    return response.body.decode()


async def test_the_text() -> None:
    text = await page(
        counter("a_total", "Things.", [(label_set({"topic": "t", "channel": "c#ephemeral"}), 3), ("", 4)]),
        gauge("b_seconds", "Time.", 0.25),
        gauge("c", "Nothing.", []),
    )
    assert text == (
        "# HELP a_total Things.\n# TYPE a_total counter\n"
        'a_total{topic="t",channel="c#ephemeral"} 3\na_total 4\n'
        "# HELP b_seconds Time.\n# TYPE b_seconds gauge\nb_seconds 0.25\n"
        "# HELP c Nothing.\n# TYPE c gauge\n"
    )


async def test_awkward_labels_are_read_back_as_they_were() -> None:
    awkward = 'a "quoted" \\ back\nslash, 日本 {}'
    (family,) = text_string_to_metric_families(await page(gauge("a", "A.", [(label_set({"x": awkward}), 1)])))
    assert family.samples[0].labels == {"x": awkward}


async def test_a_histogram() -> None:
    histogram = Histogram([0.1, 1.0])
    for value in (0.0, 0.1, 0.5, 7.0):
        histogram.observe(value)
    (family,) = text_string_to_metric_families(await page(histogram.family("lag_seconds", "Lag.")))
    assert family.type == "histogram"
    assert [(s.name, s.labels.get("le"), s.value) for s in family.samples] == [
        ("lag_seconds_bucket", "0.1", 2),
        ("lag_seconds_bucket", "1.0", 3),
        ("lag_seconds_bucket", "+Inf", 4),
        ("lag_seconds_sum", None, 7.6),
        ("lag_seconds_count", None, 4),
    ]


async def test_a_program_tells_of_itself() -> None:
    found = {f.name: f for f in text_string_to_metric_families(await page(*program("nsqx")))}
    assert found["nsqx_build_info"].samples[0].labels.keys() == {"version", "python"}
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert found["process_cpu_seconds"].samples[0].value > 0
    assert found["process_start_time_seconds"].samples[0].value > 1.7e9


async def test_long_pages_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsqkit.service.exposition.SLICE_SECONDS", 0.0)
    turns = 0

    def samples() -> Iterator[Sample]:
        for number in range(CHUNK * 50):
            yield f'{{n="{number}"}}', number

    async def beside() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beside)
        text = await page(gauge("a", "A.", samples()))
        nursery.cancel_scope.cancel()
    assert text.count("\n") == CHUNK * 50 + 2
    assert turns >= 3
